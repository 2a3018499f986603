// What a checkpoint holds of a run, and how it gets back to the bit: every stored tensor as its bytes in its own dtype, and
// for scaled dtypes its scale block.
//
//   model.safetensors       weights; FP8 ones as F8_E4M3 with `NAME_scale` (f32 [1], multiply to get the value)
//   optimizer.safetensors   NAME.master, NAME.m, NAME.v, NAME.mu; `T_block` = scale block [scale, scaleInv, amax, saturated]
//                           of each scaled tensor T (weights included); window.SITE f32 [18]; control f32 [4]
//
// The format knows no ranks: tensors are whole, whatever layout wrote them (gathered_state.ts), and each rank reads its part.
import { dtypes, type Parameter, type Shape, type Shard, sizeOf, sliceShard, type Tensor, UserError } from 'fp8-core';
import { type AdamW, allRows, type Rows } from 'fp8-optim';
import type { Checkpoint, SafetensorsDtype } from './files/index.ts';
import type { LanguageModel } from './trainer.ts';

export const stateFiles = { model: 'model.safetensors', optimizer: 'optimizer.safetensors' } as const;

/** A tensor of the state as this rank holds it: whole, or its part. */
export interface HeldTensor {
  name: string;
  file: keyof typeof stateFiles;
  dtype: SafetensorsDtype;
  /** Of the whole tensor. */
  shape: Shape;
  /** The part that is here, or null for the whole. */
  shard: Pick<Shard, 'shape' | 'dim' | 'ranges'> | null;
  read(): Uint8Array;
  /** Takes the bytes of what is here; absent for what follows from other tensors. */
  write?(bytes: Uint8Array): void;
}

const isScaled = (t: Tensor): boolean => dtypes[t.dtype].scaled;
const blockOf = (t: Tensor): Float32Array => t.backend.readScale(t.handle);
const floatsOf = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.slice().buffer);
const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** @param rows of the parameter's that the tensor is; absent for what does not have its shape */
function held(file: HeldTensor['file'], name: string, t: Tensor, p?: Parameter, rows?: Rows): HeldTensor {
  return {
    name,
    file,
    dtype: dtypes[t.dtype].safetensors as SafetensorsDtype,
    shape: p && rows ? p.wholeShape : t.shape,
    shard: p && rows ? shardOf(p, rows) : null,
    read() {
      const bytes = new Uint8Array(t.numBytes);
      t.backend.read(t.handle, bytes);
      return bytes;
    },
    write: (bytes) => t.backend.write(t.handle, bytes),
  };
}

/** Which part of the whole tensor some rows of what is here are. */
function shardOf(p: Parameter, [begin, end]: Rows): HeldTensor['shard'] {
  if (begin === 0 && end === p.shape[0]) return p.shard;
  const offset = p.shard ? p.shard.ranges[0][0] : 0;
  return { shape: p.wholeShape, dim: 0, ranges: [[offset + begin, offset + end]] };
}

const heldFloats = (
  file: HeldTensor['file'],
  name: string,
  length: number,
  read: () => Float32Array,
  write?: (values: Float32Array) => void,
): HeldTensor => ({
  name,
  file,
  dtype: 'F32',
  shape: [length],
  shard: null,
  read: () => bytesOf(read()),
  ...(write ? { write: (bytes: Uint8Array) => write(floatsOf(bytes)) } : {}),
});

const heldBlock = (name: string, t: Tensor): HeldTensor =>
  heldFloats(
    'optimizer',
    `${name}_block`,
    4,
    () => blockOf(t),
    (block) => t.backend.writeScale(t.handle, block),
  );

/** Everything that a resumed run needs to the bit, as far as this rank holds it. */
export function stateOf(model: LanguageModel, optimizer: AdamW): HeldTensor[] {
  const all: HeldTensor[] = [];
  const add = (file: HeldTensor['file'], name: string, t?: Tensor | null, p?: Parameter, rows?: Rows): void => {
    if (!t) return;
    all.push(held(file, name, t, p, rows));
    if (isScaled(t)) all.push(heldBlock(name, t));
  };
  for (const p of model.parameters()) {
    add('model', p.name, p.data, p, allRows(p));
    if (isScaled(p.data)) all.push(heldFloats('model', `${p.name}_scale`, 1, () => blockOf(p.data).slice(1, 2)));
  }
  for (const p of optimizer.parameters) {
    const moments = optimizer.moments.get(p);
    add('optimizer', `${p.name}.master`, p.master, p, moments?.rows);
    add('optimizer', `${p.name}.m`, moments?.m, p, moments?.rows);
    add('optimizer', `${p.name}.v`, moments?.v, p, moments?.rows);
    add('optimizer', `${p.name}.mu`, p.mu);
  }
  for (const [site, window] of model.context.scaling.windows) add('optimizer', `window.${site}`, window);
  add('optimizer', 'control', optimizer.control);
  return all;
}

function restore(checkpoint: Checkpoint, { name, dtype, shape, shard, write }: HeldTensor): void {
  if (!write) return;
  const stored = checkpoint.tensor(name);
  if (stored.dtype !== dtype || stored.shape.join() !== shape.join()) {
    throw new UserError(
      `checkpoint ${checkpoint.path}: ${name} is ${stored.dtype} [${stored.shape}], this run needs ${dtype} [${shape}]; use the recipe and model it was trained with`,
    );
  }
  write(shard ? sliceShard(shard, stored.bytes, stored.bytes.length / sizeOf(shape)) : stored.bytes);
}

/** Brings a run back to the bit, in any layout of ranks. @throws UserError naming the first tensor that does not fit */
export function restoreTraining(checkpoint: Checkpoint, model: LanguageModel, optimizer: AdamW): void {
  for (const tensor of stateOf(model, optimizer)) restore(checkpoint, tensor);
}

/** Loads the weights alone, for generation. @throws UserError naming the first tensor that does not fit */
export function restoreWeights(checkpoint: Checkpoint, parameters: readonly Parameter[]): void {
  for (const p of parameters) {
    restore(checkpoint, held('model', p.name, p.data, p, allRows(p)));
    if (!isScaled(p.data)) continue;
    const [scaleInv] = floatsOf(checkpoint.tensor(`${p.name}_scale`).bytes);
    p.backend.writeScale(p.data.handle, new Float32Array([1 / scaleInv, scaleInv, 0, 0]));
  }
}
