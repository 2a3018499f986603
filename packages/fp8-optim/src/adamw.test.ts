// AdamW against the textbook in float64, on the reference backend.
import { type Backend, empty, modelContext, Parameter, recipes, referenceBackend, scope, type Tensor } from 'fp8-core';
import { afterEach, expect, test } from 'vitest';
import { AdamW } from './adamw.ts';

const backend: Backend = referenceBackend();
const lr = 0.01;
const released: { release(): void }[] = [];
afterEach(() => {
  for (const r of released.splice(0)) r.release();
});

const wave = (n: number, phase: number, size = 1): number[] =>
  Array.from({ length: n }, (_, i) => size * Math.sin(2.3 * i + phase));

function upload(shape: readonly number[], values: number[]): Tensor {
  const t = empty(backend, shape, 'f32');
  backend.write(t.handle, new Uint8Array(Float32Array.from(values).buffer));
  return t;
}

/** A tensor's values, whatever its dtype. */
function valuesOf(t: Tensor): Float32Array {
  return scope(() => {
    const wide = empty(backend, t.shape, 'f32');
    backend.kernels.cast({ y: wide, x: t, n: t.size, random: 0 });
    const values = new Float32Array(t.size);
    backend.read(wide.handle, new Uint8Array(values.buffer));
    return values;
  });
}

function parameter(recipe: string, kind: 'linear' | 'vector', values: number[]): Parameter {
  const p = new Parameter(
    modelContext(backend, recipes[recipe]),
    `${kind}.p`,
    kind === 'linear' ? [values.length / 4, 4] : [values.length],
    kind,
    { constant: 0 },
  );
  scope(() => p.assign(upload(p.shape, values)));
  released.push(p);
  return p;
}

function setGradient(p: Parameter, values: number[]): void {
  scope(() => {
    const { grad } = p.gradForAccumulation();
    const x = upload(p.shape, values);
    if (grad.dtype === 'f32') backend.kernels.cast({ y: grad, x, n: p.size, random: 0 });
    else backend.kernels.quantize({ y: grad, x, mu: p.mu, n: p.size, random: 0 });
  });
}

/** The textbook: Loshchilov and Hutter 2019, with clipping by the global norm. */
function textbook(start: number[][], gradients: number[][][], decays: number[], maxNorm: number): number[][] {
  const [b1, b2, eps] = [0.9, 0.95, 1e-8];
  const p = start.map((x) => [...x]);
  const m = start.map((x) => x.map(() => 0));
  const v = start.map((x) => x.map(() => 0));
  gradients.forEach((step, t) => {
    const norm = Math.sqrt(step.flat().reduce((sum, g) => sum + g * g, 0));
    const clip = maxNorm > 0 && norm > maxNorm ? maxNorm / (norm + 1e-6) : 1;
    step.forEach((tensor, k) => {
      tensor.forEach((raw, i) => {
        const g = raw * clip;
        m[k][i] = b1 * m[k][i] + (1 - b1) * g;
        v[k][i] = b2 * v[k][i] + (1 - b2) * g * g;
        const update = m[k][i] / (1 - b1 ** (t + 1)) / (Math.sqrt(v[k][i] / (1 - b2 ** (t + 1))) + eps);
        p[k][i] = p[k][i] * (1 - lr * decays[k]) - lr * update;
      });
    });
  });
  return p;
}

test.each([0, 0.5])('in float32 equals the textbook, clipping to %d', (maxGradNorm) => {
  const start = [wave(32, 0), wave(7, 1)];
  const gradients = Array.from({ length: 6 }, (_, t) => [wave(32, t, 0.3), wave(7, t + 9, 0.01)]);
  const parameters = [parameter('fp32', 'linear', start[0]), parameter('fp32', 'vector', start[1])];
  const optimizer = new AdamW(parameters, { weightDecay: 0.1, maxGradNorm });
  released.push(optimizer);
  for (const step of gradients) {
    parameters.forEach((p, k) => setGradient(p, step[k]));
    const { gradNorm, skipped } = optimizer.step(lr);
    expect(skipped).toBe(false);
    expect(gradNorm).toBeCloseTo(Math.sqrt(step.flat().reduce((sum, g) => sum + g * g, 0)), 5);
    for (const p of parameters) p.zeroGrad();
  }
  // Matrices decay, vectors do not.
  const expected = textbook(start, gradients, [0.1, 0], maxGradNorm);
  parameters.forEach((p, k) => {
    valuesOf(p.data).forEach((x, i) => expect(Math.abs(x - expected[k][i]), `${p.name}[${i}]`).toBeLessThan(2e-6));
  });
  expect(optimizer.stepsTaken).toBe(6);
});

test.each([
  ['o1', 0.02],
  ['o2', 0.15],
  ['o3', 0.15],
])('%s: the weight moves as the textbook says, within its states’ rounding', (recipe, tolerance) => {
  const start = wave(64, 0);
  const gradients = Array.from({ length: 10 }, (_, t) => [wave(64, 0.1 * t, 0.3)]);
  const p = parameter(recipe, 'linear', start);
  const optimizer = new AdamW([p], { weightDecay: 0, maxGradNorm: 0 });
  released.push(optimizer);
  for (const [g] of gradients) {
    setGradient(p, g);
    optimizer.step(lr);
    p.zeroGrad();
  }
  const expected = textbook([start], gradients, [0], 0)[0];
  const got = valuesOf(p.primary);
  const moved = Math.sqrt(expected.reduce((sum, x, i) => sum + (x - start[i]) ** 2, 0));
  const error = Math.sqrt(expected.reduce((sum, x, i) => sum + (x - got[i]) ** 2, 0));
  expect(error / moved).toBeLessThan(tolerance);
});

test('clipping includes FP8 gradients, in the norm and in the scaling', () => {
  const g = wave(64, 0.4, 10);
  const run = (maxGradNorm: number, size: number) => {
    const p = parameter('o2', 'linear', wave(64, 0));
    const optimizer = new AdamW([p], { maxGradNorm, weightDecay: 0 });
    released.push(optimizer);
    setGradient(
      p,
      g.map((x) => x * size),
    );
    return { result: optimizer.step(lr), m: valuesOf((optimizer.moments.get(p) as { m: Tensor }).m) };
  };
  const clipped = run(1, 1);
  const norm = Math.sqrt(g.reduce((sum, x) => sum + x * x, 0));
  // e4m3: half a last place of 3 bits is 1/16; over 64 elements the errors average out.
  expect(Math.abs(clipped.result.gradNorm / norm - 1)).toBeLessThan(0.02);
  const mNorm = Math.sqrt(clipped.m.reduce((sum, x) => sum + x * x, 0));
  expect(Math.abs(mNorm / 0.1 - 1)).toBeLessThan(0.03);
});

test('mu is halved when many elements saturate and grows slowly otherwise', () => {
  const p = parameter('o2', 'linear', wave(64, 0));
  const optimizer = new AdamW([p]);
  released.push(optimizer);
  const mu = () => valuesOf(p.mu as Tensor)[0];
  setGradient(p, wave(64, 0, 0.1));
  optimizer.step(lr);
  expect(mu()).toBeCloseTo(2 ** (1 / 1000), 6);
  p.zeroGrad();
  // Equal magnitudes just below a power of two times 448: the scale leaves no room for mu, so all of them saturate.
  setGradient(
    p,
    wave(64, 0).map((x) => Math.sign(x) * 447.9),
  );
  optimizer.step(lr);
  expect(mu()).toBeCloseTo(0.5 * 2 ** (1 / 1000), 6);
});

test('no parameters and impossible betas are refused', () => {
  expect(() => new AdamW([])).toThrow('no parameters');
  expect(() => new AdamW([parameter('fp32', 'vector', [1])], { betas: [0.9, 1] })).toThrow('beta 1');
});
