// A checkpoint of ours as a Hugging Face folder, which transformers and whatever reads its format can load. The weights are those of
// the master copy where there is one: FP8 and scaled FP16 tensors become plain ones, exactly so in f32.
import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { encodeBf16, encodeF16, sizeOf, UserError } from 'fp8-core';
import { type GptConfig, hfShape, type TensorMap, type Tokenizer, toHfConfig } from 'fp8-models';
import { explainDisk, removeQuietly, syncFolder, writeDurably } from '../files/atomic.ts';
import { isLiveWriter } from '../files/checkpoint.ts';
import { readCheckpoint, type SafetensorsDtype, type TensorSource, writeSafetensors } from '../files/index.ts';
import { stateFiles } from '../state.ts';
import { checkpointWeights, type StoredTensor, valuesOf, type Weights } from '../weights.ts';
import { transpose } from './transpose.ts';

/** Dtypes of exported weights, by PyTorch's short names. */
export const exportDtypes = {
  f32: { stored: 'F32', torch: 'float32' },
  bf16: { stored: 'BF16', torch: 'bfloat16' },
  f16: { stored: 'F16', torch: 'float16' },
} as const satisfies Record<string, { stored: SafetensorsDtype; torch: string }>;

export type ExportDtype = keyof typeof exportDtypes;

export interface ExportResult {
  architecture: string;
  config: GptConfig;
  params: number;
  dtype: ExportDtype;
  /** Ids of the tokenizer; null without one. */
  tokenizer: number | null;
  /** Step of the checkpoint. */
  step: number;
  path: string;
  /** Of model.safetensors. */
  numBytes: number;
}

/**
 * Exports a checkpoint. The folder appears when it is whole and on the disk.
 * @param run a run's folder (its newest checkpoint) or one checkpoint's
 * @param out a folder that is not there yet, or empty
 * @param dtype of all weights; by default what loses nothing: an imported model's own, else f32
 * @throws UserError if no family has this model, a value does not fit f16, a checkpoint is damaged or the disk refuses
 */
export function exportModel(run: string, out: string, dtype?: ExportDtype): ExportResult {
  if (existsSync(out) && !(statSync(out).isDirectory() && readdirSync(out).length === 0))
    throw new UserError(`${out} is not an empty folder; choose another one, or remove it first`);
  const checkpoint = readCheckpoint(run);
  const weights = checkpointWeights(checkpoint);
  const aside = `${resolve(out)}.tmp-${process.pid}`;
  try {
    const chosen = dtype ?? ownDtype(weights);
    const { config, tokenizer } = weights;
    const { stored, torch } = exportDtypes[chosen];
    const { family, json } = toHfConfig(config, { ...idsOf(tokenizer), torchDtype: torch });
    const sources = tensorsOf(weights, [...family.tensors(config)], stored);
    removeLeftovers(resolve(out));
    mkdirSync(aside, { recursive: true });
    const { size } = writeSafetensors(join(aside, 'model.safetensors'), sources, { format: 'pt' });
    writeJson(join(aside, 'config.json'), json);
    writeJson(join(aside, 'generation_config.json'), generationConfig(json));
    tokenizer?.save(aside);
    syncFolder(aside);
    if (existsSync(out)) rmdirSync(out);
    renameSync(aside, out);
    syncFolder(dirname(resolve(out)));
    return {
      architecture: family.architecture,
      config,
      params: sources.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
      dtype: chosen,
      tokenizer: tokenizer?.vocabSize ?? null,
      step: checkpoint.step,
      path: out,
      numBytes: size,
    };
  } catch (error) {
    removeQuietly(aside);
    throw explainDisk(error, 'write', out);
  } finally {
    weights.close();
  }
}

/** Removes what exports to this folder left that were killed. */
function removeLeftovers(out: string): void {
  if (!existsSync(dirname(out))) return;
  for (const name of readdirSync(dirname(out))) {
    const path = join(dirname(out), name);
    const pid = path.startsWith(`${out}.tmp-`) ? Number(path.slice(out.length + '.tmp-'.length)) : Number.NaN;
    if (Number.isSafeInteger(pid) && pid > 0 && !isLiveWriter(pid, path)) removeQuietly(path);
  }
}

/** The dtype that loses nothing: of an imported model its own. */
function ownDtype({ checkpoint }: Weights): ExportDtype {
  if (!checkpoint?.json.imported) return 'f32';
  const stored = new Set([...(checkpoint.files.get(stateFiles.model)?.values() ?? [])].map(({ dtype }) => dtype));
  const only = stored.size === 1 ? [...stored][0] : 'F32';
  return (Object.keys(exportDtypes) as ExportDtype[]).find((d) => exportDtypes[d].stored === only) ?? 'f32';
}

/** Ids of the tokens that begin and end a text, as far as the tokenizer has them. */
function idsOf(tokenizer: Tokenizer | null): { bosId?: number; eosId?: number } {
  if (!tokenizer) return {};
  const { bos_token: bos } = tokenizer.toConfig() as { bos_token?: string | { content?: string } | null };
  const content = typeof bos === 'string' ? bos : bos?.content;
  const [bosId, ...more] = typeof content === 'string' ? tokenizer.encode(content) : [];
  const { eosId, prefix = [] } = tokenizer;
  return { bosId: more.length === 0 && bosId !== undefined ? bosId : prefix[0], eosId };
}

const generationConfig = ({ bos_token_id, eos_token_id }: Readonly<Record<string, unknown>>) => ({
  _from_model_config: true,
  bos_token_id,
  eos_token_id,
});

const writeJson = (path: string, value: unknown): void =>
  void writeDurably(path, [`${JSON.stringify(value, null, 2)}\n`]);

/** Their tensors, each made from ours when it is written. */
function tensorsOf(weights: Weights, maps: readonly TensorMap[], dtype: SafetensorsDtype): TensorSource[] {
  const readOnce = lastTwo((name) => weights.read(name));
  return maps.flatMap((map) => {
    let begin = 0;
    return map.theirs.map((part): TensorSource => {
      const rows = [begin, (begin += part.rows)] as const;
      const origin = `${weights.path}: ${map.ours}`;
      return {
        name: part.name,
        dtype,
        shape: hfShape(map, part),
        bytes: () => convert(readOnce(map.ours), map, rows, dtype, origin),
      };
    });
  });
}

/** Tensors of one layer are written by name, so parts of one of ours have another between them: k, o, q, v. */
function lastTwo(read: (name: string) => StoredTensor): (name: string) => StoredTensor {
  let kept: { name: string; tensor: StoredTensor }[] = [];
  return (name) => {
    const found = kept.find((entry) => entry.name === name) ?? { name, tensor: read(name) };
    kept = [found, ...kept.filter((entry) => entry !== found)].slice(0, 2);
    return found.tensor;
  };
}

/** Rows of a tensor of ours as one of theirs: decoded, encoded, transposed, as far as each is needed. */
function convert(
  { dtype, bytes, scaleInv, shape }: StoredTensor,
  { transposed }: TensorMap,
  [begin, end]: readonly [number, number],
  to: SafetensorsDtype,
  origin: string,
): Uint8Array {
  const rowBytes = bytes.length / shape[0];
  const rows = bytes.subarray(begin * rowBytes, end * rowBytes);
  const isSame = dtype === to && scaleInv === 1;
  const plain = isSame ? rows : encode(valuesOf({ dtype, bytes: rows, scaleInv }, origin), to, origin);
  if (!transposed) return plain;
  const target = new Uint8Array(plain.length);
  const [out, input] = shape;
  transpose(plain, out, input, plain.length / (out * input), target);
  return target;
}

function encode(values: Float32Array, to: SafetensorsDtype, origin: string): Uint8Array {
  const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Uint16Array): Uint8Array =>
    new Uint8Array(buffer, byteOffset, byteLength);
  if (to === 'F32') return bytesOf(values);
  if (to === 'BF16') return bytesOf(encodeBf16(values));
  const large = values.find((v) => Number.isFinite(v) && Math.abs(v) >= 65520);
  if (large !== undefined)
    throw new UserError(`${origin} has the value ${large}, beyond f16's 65504; export in bf16 or f32`);
  return bytesOf(encodeF16(values));
}
