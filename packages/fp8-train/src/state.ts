// What a checkpoint holds of a run, and how it gets back to the bit: every stored tensor as its bytes in its own dtype, and
// for scaled dtypes its scale block.
//
//   model.safetensors       weights; FP8 ones as F8_E4M3 with `NAME_scale` (f32 [1], multiply to get the value)
//   optimizer.safetensors   NAME.master, NAME.m, NAME.v, NAME.mu; `T_block` = scale block [scale, scaleInv, amax, saturated]
//                           of each scaled tensor T (weights included); window.SITE f32 [18]; control f32 [4]
import { dtypes, type Parameter, type Tensor, UserError } from 'fp8-core';
import type { AdamW } from 'fp8-optim';
import type { Checkpoint, CheckpointFile, SafetensorsDtype, TensorSource } from './files/index.ts';
import type { LanguageModel } from './trainer.ts';

const bytesOf = (t: Tensor): Uint8Array => {
  const bytes = new Uint8Array(t.numBytes);
  t.backend.read(t.handle, bytes);
  return bytes;
};

const source = (name: string, t: Tensor): TensorSource => ({
  name,
  dtype: dtypes[t.dtype].safetensors as SafetensorsDtype,
  shape: [...t.shape],
  bytes: () => bytesOf(t),
});

const floats = (name: string, values: () => Float32Array, length: number): TensorSource => ({
  name,
  dtype: 'F32',
  shape: [length],
  bytes: () => new Uint8Array(values().buffer),
});

const isScaled = (t: Tensor): boolean => dtypes[t.dtype].scaled;
const blockOf = (t: Tensor): Float32Array => t.backend.readScale(t.handle);

/** Every tensor that a resumed run needs to the bit, by name, weights first. */
function* trainingTensors(model: LanguageModel, optimizer: AdamW): Generator<[name: string, t: Tensor]> {
  for (const p of optimizer.parameters) {
    const { m, v } = optimizer.moments.get(p) as { m: Tensor; v: Tensor };
    if (p.master) yield [`${p.name}.master`, p.master];
    yield [`${p.name}.m`, m];
    yield [`${p.name}.v`, v];
    if (p.mu) yield [`${p.name}.mu`, p.mu];
  }
  for (const [site, window] of model.context.scaling.windows) yield [`window.${site}`, window];
  yield ['control', optimizer.control];
}

/** The safetensors files of a checkpoint. */
export function checkpointFiles(model: LanguageModel, optimizer: AdamW): CheckpointFile[] {
  const parameters = model.parameters();
  const weights = function* (): Generator<TensorSource> {
    for (const p of parameters) {
      yield source(p.name, p.data);
      if (isScaled(p.data)) yield floats(`${p.name}_scale`, () => blockOf(p.data).slice(1, 2), 1);
    }
  };
  const states = function* (): Generator<TensorSource> {
    for (const p of parameters) if (isScaled(p.data)) yield floats(`${p.name}_block`, () => blockOf(p.data), 4);
    for (const [name, t] of trainingTensors(model, optimizer)) {
      yield source(name, t);
      if (isScaled(t)) yield floats(`${name}_block`, () => blockOf(t), 4);
    }
  };
  return [
    { name: 'model.safetensors', tensors: weights(), metadata: { format: 'pt' } },
    { name: 'optimizer.safetensors', tensors: states() },
  ];
}

function put(checkpoint: Checkpoint, name: string, t: Tensor): void {
  const stored = checkpoint.tensor(name);
  if (stored.dtype !== dtypes[t.dtype].safetensors || stored.shape.join() !== t.shape.join()) {
    throw new UserError(
      `checkpoint ${checkpoint.path}: ${name} is ${stored.dtype} [${stored.shape}], this run needs ${dtypes[t.dtype].safetensors} [${t.shape}]; use the recipe and model it was trained with`,
    );
  }
  t.backend.write(t.handle, stored.bytes);
}

const floatsOf = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.slice().buffer);

/** Brings a run back to the bit. @throws UserError naming the first tensor that does not fit */
export function restoreTraining(checkpoint: Checkpoint, model: LanguageModel, optimizer: AdamW): void {
  const block = (name: string, t: Tensor): void => {
    if (isScaled(t)) t.backend.writeScale(t.handle, floatsOf(checkpoint.tensor(`${name}_block`).bytes));
  };
  for (const p of model.parameters()) {
    put(checkpoint, p.name, p.data);
    block(p.name, p.data);
  }
  for (const [name, t] of trainingTensors(model, optimizer)) {
    put(checkpoint, name, t);
    block(name, t);
  }
}

/** Loads the weights alone, for generation. @throws UserError naming the first tensor that does not fit */
export function restoreWeights(checkpoint: Checkpoint, parameters: readonly Parameter[]): void {
  for (const p of parameters) {
    put(checkpoint, p.name, p.data);
    if (!isScaled(p.data)) continue;
    const [scaleInv] = floatsOf(checkpoint.tensor(`${p.name}_scale`).bytes);
    p.backend.writeScale(p.data.handle, new Float32Array([1 / scaleInv, scaleInv, 0, 0]));
  }
}
