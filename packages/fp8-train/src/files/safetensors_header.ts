/**
 * The header of a safetensors file: 8 bytes of length (little-endian), then JSON from name to dtype, shape and place.
 * Checked as strictly as the Rust crate does it: bytes must be covered
 * exactly once, from the first to the last, so nothing can hide in a hole and no tensor can read another's bytes.
 * @see https://huggingface.co/docs/safetensors (format)
 */
import { UserError } from 'fp8-core';
import { strictProblem } from './json_strict.ts';

/** Bytes of one element of each dtype we know. */
export const SAFETENSORS_BYTES = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type SafetensorsDtype = keyof typeof SAFETENSORS_BYTES;

export interface TensorInfo {
  dtype: SafetensorsDtype;
  shape: number[];
}

/** Where a tensor lies: `begin` and `end` count from the first byte after the header. */
export interface TensorPlace extends TensorInfo {
  begin: number;
  end: number;
}

export interface SafetensorsHeader {
  metadata: Record<string, string>;
  /** In the order of their bytes. */
  tensors: Map<string, TensorPlace>;
}

/** The Rust crate's bound: 100 MB of header. */
export const MAX_HEADER_BYTES = 100_000_000;
const MAX_NAME_LENGTH = 4096;

/** Number of bytes of a tensor, or NaN if the shape is not one. */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number {
  let bytes: number = SAFETENSORS_BYTES[dtype];
  for (const dim of shape) {
    if (!Number.isSafeInteger(dim) || dim < 0) return NaN;
    bytes *= dim;
    if (!Number.isSafeInteger(bytes)) return NaN; // here, not at the end: a later dim of 0 must not hide it
  }
  return bytes;
}

/** Why a name may not stand in a file of ours, or undefined. */
export function badTensorName(name: string): string | undefined {
  if (name === '') return 'is empty';
  if (name.length > MAX_NAME_LENGTH) return `is longer than ${MAX_NAME_LENGTH} characters`;
  // oxlint-disable-next-line no-control-regex -- control characters are what is looked for
  if (/[\u0000-\u001f]/.test(name)) return 'has a control character';
  if (name === '__proto__' || name === '__metadata__') return 'is reserved';
  if (/^([/\\]|[a-z]:)/i.test(name) || name.split(/[/\\]/).includes('..')) return 'looks like a path out of its folder';
  return undefined;
}

/** The order in which tensors lie in a file: as the Rust crate has them, widest dtype first (so that each is aligned), then by name. */
export function writeOrder(tensors: readonly ({ name: string } & TensorInfo)[]): number[] {
  return [...tensors.keys()].sort((a, b) => {
    const [x, y] = [tensors[a], tensors[b]];
    return SAFETENSORS_BYTES[y.dtype] - SAFETENSORS_BYTES[x.dtype] || (x.name < y.name ? -1 : x.name > y.name ? 1 : 0);
  });
}

/** Lays tensors out in `writeOrder` and writes the header, padded with spaces so that the data starts at a multiple of 8. */
export function layoutHeader(
  tensors: readonly ({ name: string } & TensorInfo)[],
  metadata: Record<string, string> = {},
): { header: Uint8Array; order: number[] } {
  const order = writeOrder(tensors);
  const json: Record<string, unknown> = Object.create(null);
  if (Object.keys(metadata).length > 0) json.__metadata__ = metadata;
  let offset = 0;
  for (const i of order) {
    const { name, dtype, shape } = tensors[i];
    const bad = badTensorName(name);
    if (bad !== undefined) throw new RangeError(`safetensors: tensor name ${JSON.stringify(name)} ${bad}`);
    if (name in json) throw new RangeError(`safetensors: two tensors are called ${JSON.stringify(name)}`);
    const bytes = tensorBytes(dtype, shape);
    if (Number.isNaN(bytes)) throw new RangeError(`safetensors: tensor ${name} has shape [${shape.join(', ')}]`);
    json[name] = { dtype, shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const text = Buffer.from(JSON.stringify(json));
  const padded = Math.ceil(text.length / 8) * 8;
  if (padded > MAX_HEADER_BYTES) throw new RangeError(`safetensors: the header would have ${padded} bytes`);
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded), 0);
  text.copy(header, 8);
  return { header, order };
}

/**
 * Checks the 8 length bytes against the file's size.
 * @returns bytes of JSON that follow
 */
export function checkHeaderLength(first8: Uint8Array, fileSize: number, file: string): number {
  if (first8.length < 8) fail(file, `it has ${fileSize} bytes; at least 8 are needed. Is it truncated?`);
  const length = Buffer.from(first8.buffer, first8.byteOffset, 8).readBigUInt64LE(0);
  if (length > BigInt(MAX_HEADER_BYTES))
    fail(file, `its header claims ${length} bytes; at most ${MAX_HEADER_BYTES} are allowed`);
  if (8n + length > BigInt(fileSize))
    fail(file, `its header claims ${length} bytes but the file has ${fileSize}. Is it truncated?`);
  if (length < 2n) fail(file, `its header claims ${length} bytes; the shortest is {}`);
  return Number(length);
}

/**
 * Parses and checks the JSON of a header.
 * @param dataSize bytes of the file after the header
 * @throws UserError naming the file and, where there is one, the tensor
 */
export function parseHeader(bytes: Uint8Array, dataSize: number, file: string): SafetensorsHeader {
  let text: string;
  let parsed: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    if (text[0] !== '{') throw new SyntaxError('it does not begin with {');
    parsed = JSON.parse(text);
  } catch (error) {
    fail(file, `its header is not valid JSON: ${error instanceof Error ? error.message.slice(0, 120) : error}`);
  }
  const problem = strictProblem(text);
  if (problem !== undefined) fail(file, `its header cannot be trusted: ${problem}`);

  const metadata: Record<string, string> = Object.create(null);
  const places: [string, TensorPlace][] = [];
  for (const [name, value] of Object.entries(parsed as object)) {
    if (name === '__metadata__') {
      if (!isObject(value)) fail(file, '__metadata__ is not an object');
      for (const [key, entry] of Object.entries(value)) {
        if (typeof entry !== 'string') fail(file, `__metadata__ ${quote(key)} is not a string`);
        metadata[key] = entry;
      }
      continue;
    }
    const bad = badTensorName(name);
    if (bad !== undefined) fail(file, `the tensor name ${quote(name)} ${bad}`);
    places.push([name, checkTensor(name, value, file)]);
  }
  places.sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let expected = 0;
  for (const [name, { begin, end }] of places) {
    if (begin < expected) fail(file, `tensor ${quote(name)} at ${begin} overlaps the bytes before ${expected}`);
    if (begin > expected)
      fail(file, `bytes ${expected} to ${begin}, before tensor ${quote(name)}, belong to no tensor`);
    expected = end;
  }
  if (expected > dataSize)
    fail(file, `its tensors need ${expected} bytes but ${dataSize} follow the header. Is it truncated?`);
  if (expected < dataSize) fail(file, `${dataSize - expected} bytes after the last tensor belong to no tensor`);
  return { metadata, tensors: new Map(places) };
}

function checkTensor(name: string, value: unknown, file: string): TensorPlace {
  if (!isObject(value)) fail(file, `tensor ${quote(name)} is not an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !Object.hasOwn(SAFETENSORS_BYTES, dtype))
    fail(
      file,
      `tensor ${quote(name)} has dtype ${quote(String(dtype))}; known are ${Object.keys(SAFETENSORS_BYTES).join(', ')}`,
    );
  if (!Array.isArray(shape)) fail(file, `tensor ${quote(name)} has no shape`);
  const isPlace =
    Array.isArray(offsets) && offsets.length === 2 && offsets.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (!isPlace || offsets[0] > offsets[1])
    fail(file, `tensor ${quote(name)} has data_offsets ${quote(JSON.stringify(offsets) ?? 'none')}`);
  const bytes = tensorBytes(dtype as SafetensorsDtype, shape);
  if (bytes !== offsets[1] - offsets[0])
    fail(
      file,
      `tensor ${quote(name)} is ${dtype} [${quote(shape.join(', '))}], ${bytes} bytes, but its data_offsets span ${offsets[1] - offsets[0]}`,
    );
  return { dtype: dtype as SafetensorsDtype, shape, begin: offsets[0], end: offsets[1] };
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Names come from the file: shortened, and without control characters that would break the line. */
const quote = (text: string) => JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text).slice(1, -1);

function fail(file: string, reason: string): never {
  throw new UserError(`${file} is not a valid safetensors file: ${reason}`);
}
