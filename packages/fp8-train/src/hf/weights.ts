// A Hugging Face folder as weights of ours: each tensor is read when its turn comes, transposed or put together as the family's table
// says, its elements as they are.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { sizeOf, UserError } from 'fp8-core';
import {
  fromHfConfig,
  hasTokenizer,
  type HfFamily,
  hfShape,
  loadTokenizer,
  type TensorMap,
  type Tokenizer,
} from 'fp8-models';
import { type TensorInfo, tensorBytes } from '../files/index.ts';
import type { Weights } from '../weights.ts';
import { HfFolder, readJsonFile } from './folder.ts';
import { transpose } from './transpose.ts';

const dtypes: readonly string[] = ['F32', 'F16', 'BF16'];

/** Reads the model of a Hugging Face folder from its config.json alone. @throws UserError naming what fp8lm does not compute */
export function hfConfigOf(path: string): ReturnType<typeof fromHfConfig> {
  const file = join(path, 'config.json');
  if (!existsSync(file))
    throw new UserError(
      `${path} is neither a run nor a Hugging Face model: it has no checkpoint (step-N) and no config.json`,
    );
  return fromHfConfig(readJsonFile(file), file);
}

/**
 * Opens a Hugging Face folder. Close it.
 * @throws UserError naming the first tensor that is missing, unknown, or of another shape or dtype than config.json says
 */
export function hfWeights(path: string): Weights {
  const { family, config } = hfConfigOf(path);
  const folder = new HfFolder(path);
  try {
    const nameOf = prefixRule(family, folder);
    const maps = new Map<string, TensorMap & TensorInfo>();
    const used = new Set<string>();
    for (const map of family.tensors(config)) {
      const theirs = map.theirs.map((t) => ({ ...t, name: nameOf(t.name) }));
      for (const { name } of theirs) used.add(name);
      const shape = [...map.shape];
      maps.set(map.ours, { ...map, theirs, shape, dtype: checkedDtype(folder, { ...map, theirs }) });
    }
    checkUnknown(folder, family, used, config.tied);
    return {
      path,
      config,
      tokenizer: tokenizerOf(path, config.vocabSize),
      checkpoint: null,
      info: (name) => maps.get(name),
      read(name) {
        const map = maps.get(name);
        if (!map) throw new UserError(`${path} has no ${name}`);
        const bytes = readOurs(folder, map);
        checkFinite(bytes, map, path);
        return { dtype: map.dtype, shape: [...map.shape], bytes, scaleInv: 1 };
      },
      close: () => folder.close(),
    };
  } catch (error) {
    folder.close();
    throw error;
  }
}

/** Files of the model without its head have names without the prefix. */
function prefixRule({ prefix }: HfFamily, folder: HfFolder): (name: string) => string {
  for (const name of folder.names) if (name.startsWith(prefix)) return (n) => n;
  return (name) => (name.startsWith(prefix) ? name.slice(prefix.length) : name);
}

/** @throws UserError naming the tensor if it is missing or its shape or dtype does not fit */
function checkedDtype(folder: HfFolder, map: TensorMap): TensorInfo['dtype'] {
  const { path } = folder;
  const [first] = map.theirs;
  for (const part of map.theirs) {
    const { name } = part;
    const info = folder.info(name);
    const expected = hfShape(map, part);
    if (!info)
      throw new UserError(
        `${path} has no tensor ${name} [${expected}], which its config.json asks for (it has ${folder.numTensors} tensors)`,
      );
    if (info.shape.join() !== expected.join())
      throw new UserError(`${path}: tensor ${name} is [${info.shape}], its config.json asks for [${expected}]`);
    if (!dtypes.includes(info.dtype))
      throw new UserError(`${path}: tensor ${name} is ${info.dtype}; weights are read in ${dtypes.join(', ')}`);
    const { dtype } = folder.info(first.name) as TensorInfo;
    if (info.dtype !== dtype)
      throw new UserError(`${path}: tensor ${name} is ${info.dtype} and ${first.name} is ${dtype}; they must agree`);
  }
  return (folder.info(first.name) as TensorInfo).dtype;
}

/** A tensor that the table does not know means that the model computes something else. */
function checkUnknown(folder: HfFolder, family: HfFamily, used: ReadonlySet<string>, tied: boolean): void {
  for (const name of folder.names) {
    const whole = name.startsWith(family.prefix) ? name : family.prefix + name;
    if (used.has(name) || family.ignored.test(whole) || (tied && name === 'lm_head.weight')) continue;
    throw new UserError(
      `${folder.path}: tensor ${name} is no part of a ${family.architecture} with this config.json; is it another model?`,
    );
  }
}

function readOurs(folder: HfFolder, { theirs, transposed, shape, dtype }: TensorMap & TensorInfo): Uint8Array {
  const bytes = new Uint8Array(tensorBytes(dtype, shape));
  if (transposed) {
    const [out, input] = shape;
    transpose(folder.read(theirs[0].name), input, out, bytes.length / sizeOf(shape), bytes);
    return bytes;
  }
  let at = 0;
  for (const { name, rows } of theirs) {
    const end = at + (bytes.length / shape[0]) * rows;
    folder.read(name, bytes.subarray(at, end));
    at = end;
  }
  return bytes;
}

/** Bits of the exponent: all set in infinity and NaN, by which a damaged file often shows. */
const exponents: Partial<Record<TensorInfo['dtype'], number>> = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 };

function checkFinite(bytes: Uint8Array, { theirs, dtype }: TensorMap & TensorInfo, path: string): void {
  const exponent = exponents[dtype] as number;
  const elements =
    dtype === 'F32'
      ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
      : new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  for (let i = 0; i < elements.length; i++) {
    if ((elements[i] & exponent) !== exponent) continue;
    const names = theirs.map(({ name }) => name).join(', ');
    throw new UserError(
      `${path}: ${names} has a value that is not finite; the file is damaged, or its training diverged`,
    );
  }
}

function tokenizerOf(path: string, vocabSize: number): Tokenizer | null {
  if (!hasTokenizer(path)) return null;
  const tokenizer = loadTokenizer(path);
  if (tokenizer.vocabSize > vocabSize)
    throw new UserError(
      `${path}: its tokenizer has ${tokenizer.vocabSize} ids, its config.json a vocabulary of ${vocabSize}`,
    );
  return tokenizer;
}
