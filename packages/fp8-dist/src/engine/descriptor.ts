// What a rank says when it enters a collective: enough to see that all ranks called the same thing, the scales of its tensors
// (whose minimum the reduction uses), and for small payloads the data itself.
import { type DType, dtypes } from 'fp8-core';
import { ProtocolError } from '../errors.ts';
import type { ReduceOp } from '../math/math.ts';

export const opCodes = [
  'allReduce',
  'reduceScatter',
  'allGather',
  'broadcast',
  'allToAll',
  'send',
  'barrier',
  'close',
] as const;
export type OpCode = (typeof opCodes)[number];
const reduceOps = ['sum', 'max', 'min'] as const;
const dtypeNames = Object.keys(dtypes) as DType[];

/** The largest collective whose data travels with the announcement, in bytes: one hop instead of two. */
export const eagerBytes = 32 * 1024;
export const maxSegments = 4096;

export interface Descriptor {
  code: OpCode;
  dtype: DType;
  reduce: ReduceOp;
  mean: boolean;
  /** Sum in FP8 at every step, as the paper's authors do. */
  steps: boolean;
  /** `fit`: the result's scale leaves room for the sum of all ranks; `keep`: the shared scale stays and the sum saturates. */
  range: 'fit' | 'keep';
  /** Group rank of the source of a broadcast; 0 for others. */
  root: number;
  /** Elements of the whole collective. */
  count: number;
  /** Folds the shapes: sizes of the segments and of the ranks' shares. */
  shape: number;
  /** One a segment for scaled dtypes, else empty. */
  scales: Float32Array;
}

const fixedBytes = 28;

/** Descriptor, then `data`. */
export function encodeDescriptor(d: Descriptor, data: Uint8Array | null): Buffer {
  const head = fixedBytes + 4 * d.scales.length;
  const b = Buffer.allocUnsafe(head + (data?.length ?? 0));
  b[0] = opCodes.indexOf(d.code);
  b[1] = dtypes[d.dtype].code;
  b[2] = reduceOps.indexOf(d.reduce);
  b[3] = (d.mean ? 1 : 0) | (d.steps ? 2 : 0) | (d.range === 'keep' ? 4 : 0);
  b.writeUInt32LE(d.root, 4);
  b.writeDoubleLE(d.count, 8);
  b.writeUInt32LE(d.shape, 16);
  b.writeUInt32LE(d.scales.length, 20);
  b.writeUInt32LE(data?.length ?? 0, 24);
  for (let i = 0; i < d.scales.length; i++) b.writeFloatLE(d.scales[i], fixedBytes + 4 * i);
  if (data) b.set(data, head);
  return b;
}

/** @throws ProtocolError if any field is out of its range */
export function decodeDescriptor(bytes: Uint8Array): { descriptor: Descriptor; data: Uint8Array } {
  const b = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (b.length < fixedBytes) throw new ProtocolError(`an announcement of ${b.length} bytes`);
  const code = opCodes[b[0]];
  const dtype = dtypeNames.find((name) => dtypes[name].code === b[1]);
  const reduce = reduceOps[b[2]];
  const root = b.readUInt32LE(4);
  const count = b.readDoubleLE(8);
  const numScales = b.readUInt32LE(20);
  const numData = b.readUInt32LE(24);
  if (!code || !dtype || !reduce || b[3] > 7 || root > 65535)
    throw new ProtocolError('an announcement with unknown codes');
  if (!Number.isSafeInteger(count) || count < 0) throw new ProtocolError(`an announcement of ${count} elements`);
  if (numScales > maxSegments || numData > eagerBytes) throw new ProtocolError(`${numScales} scales, ${numData} bytes`);
  const head = fixedBytes + 4 * numScales;
  if (b.length !== head + numData)
    throw new ProtocolError(`an announcement of ${b.length} bytes, ${head + numData} expected`);
  const scales = new Float32Array(numScales);
  for (let i = 0; i < numScales; i++) {
    scales[i] = b.readFloatLE(fixedBytes + 4 * i);
    if (!(scales[i] > 0 && scales[i] < Infinity)) throw new ProtocolError(`scale ${i} is ${scales[i]}`);
  }
  const shape = b.readUInt32LE(16);
  const flags = b[3];
  const descriptor: Descriptor = {
    code,
    dtype,
    reduce,
    mean: (flags & 1) !== 0,
    steps: (flags & 2) !== 0,
    range: flags & 4 ? 'keep' : 'fit',
    root,
    count,
    shape,
    scales,
  };
  return { descriptor, data: b.subarray(head) };
}

/** The call as a person would write it: "allReduce(sum, f32, 1024 elements)". */
export function describe(d: Descriptor): string {
  if (d.code === 'barrier' || d.code === 'close') return d.code;
  const reduces = d.code === 'allReduce' || d.code === 'reduceScatter';
  const parts = [d.dtype, `${d.count} element${d.count === 1 ? '' : 's'}`];
  if (reduces) parts.unshift(d.mean ? 'mean' : d.reduce);
  if (d.code === 'broadcast') parts.push(`root ${d.root}`);
  if (d.steps) parts.push('rounded at each step');
  if (reduces && d.range === 'keep') parts.push('scale kept');
  if (d.scales.length > 1) parts.push(`${d.scales.length} tensors`);
  return `${d.code}(${parts.join(', ')})`;
}

/** Which call it is: "#412 on world", "#3 between ranks 0 and 1 on pp activations". */
export function describePlace(call: {
  opSeq: number;
  channel: number;
  members: readonly number[];
  groupName: string;
}): string {
  const between = call.channel === 0 ? '' : ` between ranks ${call.members.join(' and ')}`;
  return `#${call.opSeq}${between} on ${call.groupName}`;
}

/** True when two ranks called the same; scales may differ. */
export const agrees = (a: Descriptor, b: Descriptor): boolean =>
  a.code === b.code &&
  a.dtype === b.dtype &&
  a.reduce === b.reduce &&
  a.mean === b.mean &&
  a.steps === b.steps &&
  a.range === b.range &&
  a.root === b.root &&
  a.count === b.count &&
  a.shape === b.shape &&
  a.scales.length === b.scales.length;

/** FNV-1a over whole numbers, 32 bits. */
export function fold(numbers: Iterable<number>, start = 0x811c9dc5): number {
  let h = start;
  for (const n of numbers) {
    h = Math.imul(h ^ (n >>> 0), 0x01000193);
    h = Math.imul(h ^ Math.floor(n / 2 ** 32), 0x01000193);
  }
  return h >>> 0;
}
