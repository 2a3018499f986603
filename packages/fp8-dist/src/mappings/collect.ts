// Collectives on activations, as works that hand out the tensor they make. Activations are sequence first, so gathering and
// scattering the sequence is concatenating and cutting rows: no copy besides the collective's own.
import {
  type Backend,
  dtypes,
  empty,
  type Fp8DType,
  inCategory,
  type Payload,
  scope,
  type Shape,
  type Tensor,
} from 'fp8-core';
import type { Group } from '../group.ts';
import type { Work } from '../work.ts';

const make = (backend: Backend, shape: Shape, dtype: Tensor['dtype']): Tensor =>
  inCategory('communication', () => empty(backend, shape, dtype));

const after = (work: Work, tensor: () => Tensor): Work<Tensor> => {
  let result: Tensor | null = null;
  return {
    wait() {
      if (!result) {
        work.wait();
        result = tensor();
      }
      return result;
    },
    get isDone() {
      return work.isDone;
    },
  };
};

/** @throws RangeError if the rows of `x` are not a multiple of the group */
function checkRows(what: string, x: Tensor, group: Group): void {
  if (x.shape[0] % group.size) {
    throw new RangeError(
      `${what} on ${group.name}: the first dim of [${x.shape}], the sequence, is not a multiple of ${group.size} ranks`,
    );
  }
}

/**
 * Concatenates the ranks' rows.
 * @param x [T / n, ...], any dtype; scaled ones come out with one scale, the smallest of the ranks'
 * @returns [T, ...]
 */
export function gatherRows(x: Tensor, group: Group): Work<Tensor> {
  const y = make(x.backend, [x.shape[0] * group.size, ...x.shape.slice(1)], x.dtype);
  return after(group.allGather(y, x), () => y);
}

/** This rank's rows [T / n, ...] of the sum over the ranks of x [T, ...]. */
export function reduceScatterRows(x: Tensor, group: Group, payload: Payload = 'act'): Work<Tensor> {
  checkRows('reduce-scatter', x, group);
  const shape = [x.shape[0] / group.size, ...x.shape.slice(1)];
  if (payload === 'act') {
    const y = make(x.backend, shape, x.dtype);
    return after(group.reduceScatter(y, x), () => y);
  }
  // The parts travel in FP8 and are added here in float32, so that each is rounded once and the sum not at all.
  const parts = make(x.backend, x.shape, sumDType);
  return after(group.allToAll(parts, quantized(x)), () => sumOfParts(parts, shape, x.dtype, group.size));
}

/** The sum over the ranks of x, of the same shape. In place of `x`'s bytes: the caller must be done with it. */
export function allReduceSum(x: Tensor, group: Group, payload: Payload = 'act'): Work<Tensor> {
  if (payload === 'act') return after(group.allReduce(x), () => x);
  const q = quantized(x);
  return after(group.allReduce(q), () => {
    x.backend.kernels.cast({ y: x, x: q, n: x.size, random: 0 });
    return x;
  });
}

/** Of sums of activations and of their gradients: the dtype with more mantissa, as scales are just in time. */
const sumDType: Fp8DType = 'e4m3';

function quantized(x: Tensor): Tensor {
  const y = make(x.backend, x.shape, sumDType);
  x.backend.kernels.quantize({ y, x, n: x.size, random: 0 });
  return y;
}

function sumOfParts(parts: Tensor, shape: Shape, dtype: Tensor['dtype'], count: number): Tensor {
  const { backend } = parts;
  const { kernels } = backend;
  return scope(() => {
    const y = empty(backend, shape, dtype);
    const n = y.size;
    const flat = parts.reshape(parts.size);
    const sum = empty(backend, [n], 'f32');
    const part = empty(backend, [n], 'f32');
    for (let i = 0; i < count; i++) {
      kernels.cast({ y: i === 0 ? sum : part, x: flat.slice(i * n, (i + 1) * n), n, random: 0 });
      if (i > 0) kernels.add({ y: sum, a: sum, b: part, n });
    }
    kernels.cast({ y, x: sum, n, random: 0 });
    return y;
  });
}

/** This rank's rows of x [T, ...]: a copy. */
export function ownRows(x: Tensor, group: Group): Tensor {
  checkRows('scatter', x, group);
  const rows = x.shape[0] / group.size;
  return scope(() => copyOf(x.slice(group.rank * rows, (group.rank + 1) * rows)));
}

function copyOf(x: Tensor): Tensor {
  const y = empty(x.backend, x.shape, x.dtype);
  x.backend.copy(y.handle, x.handle);
  return y;
}

// Cuts and joins of the last dim go through host memory: they are for models that mix parallel and plain layers, not for the
// path of a transformer's block.

/** Columns [begin, end) of the last dim: a copy. */
export function takeColumns(x: Tensor, begin: number, end: number): Tensor {
  const width = x.shape.at(-1) as number;
  const bytes = dtypes[x.dtype].bytes;
  const from = readBytes(x);
  const y = empty(x.backend, [...x.shape.slice(0, -1), end - begin], x.dtype);
  const to = new Uint8Array(y.numBytes);
  const length = (end - begin) * bytes;
  for (let r = 0; r * width < x.size; r++) {
    const at = (r * width + begin) * bytes;
    to.set(from.subarray(at, at + length), r * length);
  }
  y.backend.write(y.handle, to);
  return y;
}

/** This rank's equal share of the last dim. @throws RangeError if it does not divide */
export function ownColumns(x: Tensor, group: Group): Tensor {
  const width = x.shape.at(-1) as number;
  if (width % group.size) {
    throw new RangeError(
      `scatter on ${group.name}: the last dim of [${x.shape}] is not a multiple of ${group.size} ranks`,
    );
  }
  const share = width / group.size;
  return takeColumns(x, group.rank * share, (group.rank + 1) * share);
}

/** Concatenates the ranks' last dims: [..., c] -> [..., n c]. */
export function gatherColumns(x: Tensor, group: Group): Tensor {
  const { size } = group;
  return scope(() => {
    const parts = make(x.backend, [size, ...x.shape], x.dtype);
    group.allGather(parts, x).wait();
    const length = (x.shape.at(-1) as number) * dtypes[x.dtype].bytes;
    const rows = x.numBytes / length;
    const from = readBytes(parts);
    const y = empty(x.backend, [...x.shape.slice(0, -1), (x.shape.at(-1) as number) * size], x.dtype);
    const to = new Uint8Array(y.numBytes);
    for (let p = 0; p < size; p++) {
      for (let r = 0; r < rows; r++) {
        const at = (p * rows + r) * length;
        to.set(from.subarray(at, at + length), (r * size + p) * length);
      }
    }
    y.backend.write(y.handle, to);
    return y;
  });
}

function readBytes(x: Tensor): Uint8Array {
  const bytes = new Uint8Array(x.numBytes);
  x.backend.read(x.handle, bytes);
  return bytes;
}
