// Every op against central differences on the reference backend in float32, and every op for leaks. A row a op; the meta-test
// at the end fails for an exported op without a row.
import { afterEach, describe, expect, test } from 'vitest';
import {
  type Backend,
  defineOp,
  empty,
  emptyLike,
  ledger,
  modelContext,
  type Parameter,
  record,
  recipes,
  referenceBackend,
  scope,
  scopeDepth,
  type Tensor,
} from '../index.ts';
import { Linear } from '../layers/linear.ts';
import { LayerNorm, RmsNorm } from '../layers/norm.ts';
import { Parameter as ParameterClass } from '../parameter.ts';
import * as ops from './index.ts';

const backend: Backend = referenceBackend();
const context = () => modelContext(backend, recipes.fp32, 7);

/** Smooth, irregular values of order one that need no generator. */
const wave = (n: number, phase: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => Math.sin(1.7 * i + phase) * 0.9);

function tensorOf(shape: number[], values: Float32Array): Tensor {
  const t = empty(backend, shape, 'f32');
  backend.write(t.handle, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return t;
}

function valuesOf(t: Tensor): Float32Array {
  const values = new Float32Array(t.size);
  backend.read(t.handle, new Uint8Array(values.buffer));
  return values;
}

function integers(shape: number[], values: number[]): Tensor {
  const t = empty(backend, shape, 'i32');
  backend.write(t.handle, new Uint8Array(Int32Array.from(values).buffer));
  return t;
}

interface Row {
  op: string;
  inputs: number[][];
  make: () => { fn: (...x: Tensor[]) => Tensor; parameters?: Parameter[] };
}

const heads = { heads: 2, kvHeads: 1, headDim: 4 };
const mask = { rate: 0.4, seed: 3, stream: 5, offset: 11 };
const randomised = (p: Parameter, phase: number): Parameter => {
  scope(() => p.assign(tensorOf([...p.shape], wave(p.size, phase))));
  return p;
};

const rows: Row[] = [
  {
    op: 'add',
    inputs: [
      [3, 5],
      [3, 5],
    ],
    make: () => ({ fn: ops.add }),
  },
  { op: 'gelu', inputs: [[4, 7]], make: () => ({ fn: (x) => ops.gelu(x) }) },
  { op: 'swiglu', inputs: [[3, 8]], make: () => ({ fn: (x) => ops.swiglu(x) }) },
  { op: 'dropout', inputs: [[5, 9]], make: () => ({ fn: (x) => ops.dropout(x, mask) }) },
  {
    op: 'dropoutAdd',
    inputs: [
      [5, 9],
      [5, 9],
    ],
    make: () => ({ fn: (x, r) => ops.dropoutAdd(x, r, mask) }),
  },
  { op: 'rope', inputs: [[5, 2, 16]], make: () => ({ fn: (x) => ops.rope(x, heads, 100, 3) }) },
  { op: 'attention', inputs: [[5, 2, 16]], make: () => ({ fn: (x) => ops.attention(x, heads) }) },
  {
    op: 'linear',
    inputs: [[3, 2, 6]],
    make: () => {
      const layer = new Linear(context(), 'l', 6, 5);
      return { fn: (x) => layer.forward(x), parameters: layer.parameters().map(randomised) };
    },
  },
  {
    op: 'layerNorm',
    inputs: [[4, 6]],
    make: () => {
      const layer = new LayerNorm(context(), 'n', 6);
      // The residual path makes the tape hand the pending gradient to the norm.
      return { fn: (x) => ops.add(x, layer.forward(x)), parameters: layer.parameters().map(randomised) };
    },
  },
  {
    op: 'rmsNorm',
    inputs: [[4, 6]],
    make: () => {
      const layer = new RmsNorm(context(), 'n', 6);
      return { fn: (x) => ops.add(layer.forward(x), x), parameters: layer.parameters().map(randomised) };
    },
  },
  {
    op: 'embedding',
    inputs: [],
    make: () => {
      const table = randomised(new ParameterClass(context(), 't', [7, 4], 'embedding', { constant: 0 }), 1);
      const positions = randomised(new ParameterClass(context(), 'p', [6, 4], 'embedding', { constant: 0 }), 2);
      return {
        fn: () => ops.embedding(integers([3, 2], [0, 3, 6, 3, 2, 0]), table, positions, 'f32', 1),
        parameters: [table, positions],
      };
    },
  },
  {
    op: 'checkpoint',
    inputs: [[3, 4]],
    make: () => {
      const layer = new Linear(context(), 'l', 4, 4);
      return {
        fn: (x) => ops.checkpoint(x, (h) => ops.gelu(layer.forward(h))),
        parameters: layer.parameters().map(randomised),
      };
    },
  },
];

/** Sum of weights * fn(inputs), the scalar that is differentiated. */
function objective(row: Row, made: ReturnType<Row['make']>, inputs: Float32Array[], weights: Float32Array): number {
  return scope(() => {
    const y = valuesOf(made.fn(...inputs.map((v, i) => tensorOf(row.inputs[i], v))));
    return y.reduce((sum, v, i) => sum + v * weights[i], 0);
  });
}

const step = 1 / 128;

function difference(values: Float32Array, i: number, evaluate: () => number): number {
  const before = values[i];
  values[i] = before + step;
  const above = evaluate();
  values[i] = before - step;
  const below = evaluate();
  values[i] = before;
  return (above - below) / (2 * step);
}

/** float32 forward: differences are good to about 1e-3 of the objective's terms. */
const tolerance = (expected: number): number => 2e-3 + 4e-3 * Math.abs(expected);

describe.each(rows)('$op', (row) => {
  afterEach(() => expect(scopeDepth()).toBe(0));

  test('has the gradients of central differences', () => {
    const made = row.make();
    const inputs = row.inputs.map((shape, i) =>
      wave(
        shape.reduce((a, b) => a * b, 1),
        i + 0.3,
      ),
    );
    scope(() => {
      const watched = inputs.map((v, i) => tensorOf(row.inputs[i], v));
      const run = record(() => made.fn(...watched), watched);
      const weights = wave(run.output.size, 9);
      const gradients = run.backward(tensorOf([...run.output.shape], weights));
      gradients.forEach((g, i) => {
        const got = valuesOf(g as Tensor);
        inputs[i].forEach((_, j) => {
          const expected = difference(inputs[i], j, () => objective(row, made, inputs, weights));
          expect(Math.abs(got[j] - expected), `input ${i}[${j}]: ${got[j]} against ${expected}`).toBeLessThan(
            tolerance(expected),
          );
        });
      });
      for (const p of made.parameters ?? []) {
        const got = valuesOf(p.grad as Tensor);
        const values = valuesOf(p.data);
        values.forEach((_, j) => {
          const expected = difference(values, j, () => {
            scope(() => p.assign(tensorOf([...p.shape], values)));
            return objective(row, made, inputs, weights);
          });
          expect(Math.abs(got[j] - expected), `${p.name}[${j}]: ${got[j]} against ${expected}`).toBeLessThan(
            tolerance(expected),
          );
        });
        scope(() => p.assign(tensorOf([...p.shape], values)));
      }
    });
    for (const p of made.parameters ?? []) p.release();
  });

  test('leaves no bytes behind', () => {
    const made = row.make();
    const once = () =>
      scope(() => {
        const watched = row.inputs.map((shape, i) =>
          tensorOf(
            shape,
            wave(
              shape.reduce((a, b) => a * b, 1),
              i,
            ),
          ),
        );
        const run = record(() => made.fn(...watched), watched);
        run.backward(tensorOf([...run.output.shape], wave(run.output.size, 1)));
      });
    once();
    const before = { tensors: ledger.total(), backend: backend.memory().live };
    once();
    expect({ tensors: ledger.total(), backend: backend.memory().live }).toEqual(before);
    for (const p of made.parameters ?? []) p.release();
  });
});

describe('headLoss', () => {
  const vocab = 11;
  const targets = [3, -1, 0, 10, 5, 7];
  const loss = (x: Float32Array, head: Parameter, chunkBytes: number): number =>
    scope(
      () =>
        valuesOf(
          ops.headLoss(tensorOf([3, 2, 4], x), head, integers([3, 2], targets), 5, { chunkBytes, smoothing: 0.1 }),
        )[0],
    );

  test.each([1, 1 << 20])('has the gradients of central differences with chunks of %i bytes', (chunkBytes) => {
    const head = randomised(new ParameterClass(context(), 'head', [vocab, 4], 'embedding', { constant: 0 }), 4);
    const x = wave(24, 0.8);
    scope(() => {
      const input = tensorOf([3, 2, 4], x);
      const hidden = () => ops.add(input, input);
      const run = record(
        () => ops.headLoss(hidden(), head, integers([3, 2], targets), 5, { chunkBytes, smoothing: 0.1 }),
        [input],
      );
      const [dx] = run.backward();
      const doubled = Float32Array.from(x, (v) => 2 * v);
      expect(valuesOf(run.output)[0]).toBeCloseTo(loss(doubled, head, 1 << 20), 5);
      const got = valuesOf(dx as Tensor);
      x.forEach((_, j) => {
        const expected = difference(x, j, () =>
          loss(
            Float32Array.from(x, (v) => 2 * v),
            head,
            chunkBytes,
          ),
        );
        expect(Math.abs(got[j] - expected)).toBeLessThan(tolerance(expected));
      });
      const dw = valuesOf(head.grad as Tensor);
      const w = valuesOf(head.data);
      w.forEach((_, j) => {
        const expected = difference(w, j, () => {
          scope(() => head.assign(tensorOf([vocab, 4], w)));
          return loss(doubled, head, chunkBytes);
        });
        expect(Math.abs(dw[j] - expected)).toBeLessThan(tolerance(expected));
      });
    });
    head.release();
  });

  test.each([1, 1 << 20])('padded rows change no bit, in chunks of %i bytes', (chunkBytes) => {
    const results = [{}, { rowUnit: 8 }].map((traits) => {
      const padding: Backend = { ...referenceBackend(), ...traits };
      const make = (shape: number[], values: Float32Array): Tensor => {
        const [t, exact] = [empty(padding, shape, 'bf16'), empty(padding, shape, 'f32')];
        padding.write(exact.handle, new Uint8Array(values.buffer));
        padding.kernels.cast({ y: t, x: exact, n: t.size, random: 0 });
        return t;
      };
      const read = (t: Tensor): number[] => {
        const bytes = new Uint8Array(t.numBytes);
        padding.read(t.handle, bytes);
        return Array.from(bytes);
      };
      const head = new ParameterClass(modelContext(padding, recipes.bf16, 7), 'head', [vocab, 4], 'embedding', {
        std: 1,
      });
      const bytes = scope(() => {
        const ids = empty(padding, [3, 2], 'i32');
        padding.write(ids.handle, new Uint8Array(Int32Array.from(targets).buffer));
        const x = make([3, 2, 4], wave(24, 0.8));
        // Twice: the second gradient is added to the first.
        return [0, 1].flatMap(() => {
          const run = record(() => ops.headLoss(x, head, ids, 5, { chunkBytes }), [x]);
          const [dx] = run.backward();
          return [run.output, dx as Tensor, head.grad as Tensor].map(read);
        });
      });
      head.release();
      expect(padding.memory().live).toBe(0);
      return bytes;
    });
    expect(results[1]).toEqual(results[0]);
  });
});

test('an input that another op keeps is not kept as FP8 too, and its second cast changes no bit', () => {
  const passOn = defineOp({
    name: 'passOn',
    forward(_, x: Tensor) {
      const y = emptyLike(x);
      backend.copy(y.handle, x.handle);
      return y;
    },
    backward: (_, dy) => [dy],
  });
  const bytesOf = (t: Tensor): Uint8Array => {
    const bytes = new Uint8Array(t.numBytes);
    backend.read(t.handle, bytes);
    return bytes;
  };
  const shape = { heads: 2, kvHeads: 2, headDim: 8 };
  const [kept, cast] = [(x: Tensor) => x, passOn].map((between) => {
    const layer = new Linear(modelContext(backend, recipes.o2, 7), 'proj', 16, 8);
    const result = scope(() => {
      const [exact, qkv] = [tensorOf([3, 2, 48], wave(288, 0.3)), empty(backend, [3, 2, 48], 'bf16')];
      backend.kernels.cast({ y: qkv, x: exact, n: qkv.size, random: 0 });
      const before = backend.memory().live;
      const run = record(() => layer.forward(between(ops.attention(qkv, shape))), [qkv]);
      const live = backend.memory().live - before;
      const [dqkv] = run.backward();
      return { live, bytes: [run.output, dqkv as Tensor, layer.weight.grad as Tensor].map(bytesOf) };
    });
    layer.release();
    return result;
  });
  expect(kept.bytes).toEqual(cast.bytes);
  expect(cast.live - kept.live).toBeGreaterThanOrEqual(3 * 2 * 16);
});

test('every exported op has a row', () => {
  const elsewhere = ['headLoss', 'attentionCached', 'accumulateProduct', 'linearSites'];
  const missing = Object.keys(ops).filter((name) => !elsewhere.includes(name) && !rows.some((r) => r.op === name));
  expect(missing, 'ops without a row in ops.test.ts').toEqual([]);
});
