// The weights of a model under our names, wherever they lie: in a checkpoint of ours, whatever its recipe, or in a Hugging Face
// folder. One tensor is in memory at a time.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  decodeBf16,
  decodeF16,
  decodeFp8,
  empty,
  type Parameter,
  scope,
  sizeOf,
  sliceShard,
  UserError,
} from 'fp8-core';
import { checkConfig, type GptConfig, type Tokenizer, tokenizerFromJson } from 'fp8-models';
import { type Checkpoint, listCheckpoints, readCheckpoint, type TensorInfo } from './files/index.ts';
import { MANIFEST } from './files/checkpoint_manifest.ts';
import { hfConfigOf, hfWeights } from './hf/weights.ts';
import { stateFiles } from './state.ts';

/** A tensor as it is stored: value = element * scaleInv. */
export interface StoredTensor extends TensorInfo {
  bytes: Uint8Array;
  scaleInv: number;
}

export interface Weights {
  /** Named in messages. */
  readonly path: string;
  readonly config: GptConfig;
  readonly tokenizer: Tokenizer | null;
  /** Where they are a checkpoint's. */
  readonly checkpoint: Checkpoint | null;
  /** Undefined if there is no such tensor; from headers, without reading. */
  info(name: string): TensorInfo | undefined;
  /** @throws UserError naming file and tensor if it is missing or damaged */
  read(name: string): StoredTensor;
  close(): void;
}

/**
 * Opens weights.
 * @param path a run's folder (its newest checkpoint), one checkpoint's, or a Hugging Face model folder
 * @throws UserError naming the file and what is wrong with it
 */
export function openWeights(path: string): Weights {
  return isCheckpoint(path) ? checkpointWeights(readCheckpoint(path)) : hfWeights(path);
}

/** The model of weights, without opening them. @throws UserError as `openWeights` does */
export function modelOfWeights(path: string): GptConfig {
  if (!isCheckpoint(path)) return hfConfigOf(path).config;
  const checkpoint = readCheckpoint(path);
  try {
    return checkpointWeights(checkpoint).config;
  } finally {
    checkpoint.close();
  }
}

const isCheckpoint = (path: string): boolean => listCheckpoints(path).length > 0 || existsSync(join(path, MANIFEST));

/** The tokenizer of a checkpoint, or null. */
export function checkpointTokenizer({ json }: Checkpoint): Tokenizer | null {
  type Args = Parameters<typeof tokenizerFromJson>;
  const { tokenizer, tokenizer_config: config } = json as { tokenizer?: Args[0]; tokenizer_config?: Args[1] };
  return tokenizer ? tokenizerFromJson(tokenizer, config) : null;
}

/** The weights of a checkpoint at their best: the master copy, where there is one. Closing them closes it. */
export function checkpointWeights(checkpoint: Checkpoint): Weights {
  const { path, json } = checkpoint;
  if (!json.config) {
    checkpoint.close();
    throw new UserError(`checkpoint ${path}: config.json is missing`);
  }
  const master = (name: string): string | null =>
    checkpoint.has(`${name}.master`, stateFiles.optimizer) ? `${name}.master` : null;
  const scaleInv = (scale: string, slot: number): number =>
    checkpoint.has(scale) ? floatsOf(checkpoint.tensor(scale).bytes)[slot] : 1;
  return {
    path,
    config: checkConfig(json.config as GptConfig),
    tokenizer: checkpointTokenizer(checkpoint),
    checkpoint,
    info: (name) => checkpoint.files.get(stateFiles.model)?.get(name),
    read(name) {
      const best = master(name);
      // A scale block is [scale, scaleInv, amax, saturated].
      return best
        ? { ...checkpoint.tensor(best), scaleInv: scaleInv(`${best}_block`, 1) }
        : { ...checkpoint.tensor(name, stateFiles.model), scaleInv: scaleInv(`${name}_scale`, 0) };
    },
    close: () => checkpoint.close(),
  };
}

const floatsOf = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.slice().buffer);

const decoders: Partial<Record<TensorInfo['dtype'], (bytes: Uint8Array) => Float32Array>> = {
  F32: (b) => new Float32Array(b.buffer, b.byteOffset, b.byteLength / 4),
  BF16: (b) => decodeBf16(new Uint16Array(b.buffer, b.byteOffset, b.byteLength / 2)),
  F16: (b) => decodeF16(new Uint16Array(b.buffer, b.byteOffset, b.byteLength / 2)),
  F8_E4M3: (b) => decodeFp8(b, 'e4m3'),
  F8_E5M2: (b) => decodeFp8(b, 'e5m2'),
};

/** Values as float32: exact, as scales are powers of two. @param origin named in messages */
export function valuesOf({ dtype, bytes, scaleInv }: Omit<StoredTensor, 'shape'>, origin: string): Float32Array {
  const decode = decoders[dtype];
  if (!decode) throw new UserError(`${origin} is ${dtype}; weights are F32, F16, BF16, F8_E4M3 or F8_E5M2`);
  const values = decode(bytes);
  if (scaleInv !== 1) for (let i = 0; i < values.length; i++) values[i] *= scaleInv;
  return values;
}

/** @throws UserError naming the first parameter that is missing or has another shape */
export function checkWeights(weights: Weights, parameters: readonly Parameter[]): void {
  for (const { name, wholeShape } of parameters) {
    const info = weights.info(name);
    if (!info) throw new UserError(`${weights.path} has no ${name} [${wholeShape}]`);
    if (info.shape.join() !== wholeShape.join())
      throw new UserError(`${weights.path}: ${name} is [${info.shape}], this run needs [${wholeShape}]`);
  }
}

/**
 * Puts weights into a model, cast to the recipe's dtypes. Of a fresh model, before an optimizer divides its masters; where a
 * tensor is cut over ranks, they call it together.
 * @throws UserError naming file and tensor if one is missing, damaged or has another shape
 */
export function assignWeights(weights: Weights, parameters: readonly Parameter[]): void {
  checkWeights(weights, parameters);
  for (const p of parameters) {
    const stored = weights.read(p.name);
    const width = stored.bytes.length / sizeOf(p.wholeShape);
    const bytes = p.shard ? sliceShard(p.shard, stored.bytes, width) : stored.bytes;
    const values = valuesOf({ ...stored, bytes }, `${weights.path}: ${p.name}`);
    scope(() => {
      const t = empty(p.backend, p.shape, 'f32');
      p.backend.write(t.handle, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      p.assign(t);
    });
  }
}

/** @throws UserError naming the fields in which a run's model differs from its weights' (dropout may) */
export function checkSameModel(weights: Pick<Weights, 'path' | 'config'>, model: GptConfig): void {
  const wrong = (Object.keys(model) as (keyof GptConfig)[]).filter(
    (key) =>
      key !== 'dropout' && model[key] !== weights.config[key] && !(key === 'maxSeqLen' && model.position === 'rope'),
  );
  if (wrong.length === 0) return;
  const values = wrong.map((key) => `${key} ${weights.config[key]}, not ${model[key]}`);
  throw new UserError(`init ${weights.path} is another model than this run's: ${values.join('; ')}`);
}
