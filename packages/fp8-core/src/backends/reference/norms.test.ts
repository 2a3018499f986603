import { expect, it } from 'vitest';
import { numericalGradient, relativeError } from '../../cases/gradients.ts';
import { tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { normalAt } from '../../random.ts';
import { empty } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const [rows, dim] = [4, 7];
const normals = (n: number, stream: number) => Float32Array.from({ length: n }, (_, i) => normalAt(3, stream, i));
const f32 = (values: ArrayLike<number>) => tensorFrom(ref, 'f32', values);

const x = normals(rows * dim, 1).map((v) => 2 * v + 1);
const weight = normals(dim, 2);
const bias = normals(dim, 3);
const dy = normals(rows * dim, 4);

function layerNorm(x: Float32Array, weight: Float32Array, bias: Float32Array | null) {
  const [y, stats] = [empty(ref, [rows * dim], 'f32'), empty(ref, [rows * 2], 'f32')];
  k.layer_norm_forward({ y, stats, x: f32(x), weight: f32(weight), bias: bias && f32(bias), rows, dim, eps: 1e-5 });
  return { y: valuesOf(y), stats };
}

function rmsNorm(x: Float32Array, weight: Float32Array) {
  const [y, stats] = [empty(ref, [rows * dim], 'f32'), empty(ref, [rows], 'f32')];
  k.rms_norm_forward({ y, stats, x: f32(x), weight: f32(weight), rows, dim, eps: 1e-5 });
  return { y: valuesOf(y), stats };
}

it('layer norm: rows of mean 0 and variance 1, unmoved by a shift and a factor of x', () => {
  const ones = new Float32Array(dim).fill(1);
  const { y, stats } = layerNorm(x, ones, null);
  for (let r = 0; r < rows; r++) {
    const row = y.slice(r * dim, (r + 1) * dim);
    expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(0, 5);
    expect(row.reduce((a, b) => a + b * b, 0) / dim).toBeCloseTo(1, 4);
    const mean = x.slice(r * dim, (r + 1) * dim).reduce((a, b) => a + b, 0) / dim;
    expect(valuesOf(stats)[2 * r]).toBeCloseTo(mean, 5);
  }
  expect(
    relativeError(
      layerNorm(
        x.map((v) => 3 * v + 8),
        ones,
        null,
      ).y,
      y,
    ),
  ).toBeLessThan(1e-4);
});

it('layer norm backward: the derivative in x, weight and bias, added to what is there', () => {
  const { stats } = layerNorm(x, weight, bias);
  const residual = normals(rows * dim, 5);
  const dx = empty(ref, [rows * dim], 'f32');
  const [dweight, dbias] = [f32(new Float32Array(dim).fill(1)), f32(new Float32Array(dim).fill(2))];
  const args = { dx, dweight, dy: f32(dy), x: f32(x), weight: f32(weight), stats, rows, dim };
  k.layer_norm_backward({ ...args, dbias, residual: f32(residual) });
  const wanted = numericalGradient((v) => layerNorm(v, weight, bias).y, x, dy);
  expect(
    relativeError(
      valuesOf(dx),
      wanted.map((v, i) => v + residual[i]),
    ),
  ).toBeLessThan(2e-4);
  const dw = numericalGradient((v) => layerNorm(x, v, bias).y, weight, dy);
  expect(
    relativeError(
      valuesOf(dweight).map((v) => v - 1),
      dw,
    ),
  ).toBeLessThan(2e-4);
  const db = numericalGradient((v) => layerNorm(x, weight, v).y, bias, dy);
  expect(
    relativeError(
      valuesOf(dbias).map((v) => v - 2),
      db,
    ),
  ).toBeLessThan(2e-4);
  k.layer_norm_backward(args);
  expect(relativeError(valuesOf(dx), wanted)).toBeLessThan(2e-4);
});

it('rms norm: rows of mean square 1, and backward is the derivative in x and weight', () => {
  const { y } = rmsNorm(x, new Float32Array(dim).fill(1));
  expect(y.slice(0, dim).reduce((a, b) => a + b * b, 0) / dim).toBeCloseTo(1, 4);
  const { stats } = rmsNorm(x, weight);
  const [dx, dweight] = [empty(ref, [rows * dim], 'f32'), f32(new Float32Array(dim))];
  k.rms_norm_backward({ dx, dweight, dy: f32(dy), x: f32(x), weight: f32(weight), stats, rows, dim });
  expect(
    relativeError(
      valuesOf(dx),
      numericalGradient((v) => rmsNorm(v, weight).y, x, dy),
    ),
  ).toBeLessThan(2e-4);
  expect(
    relativeError(
      valuesOf(dweight),
      numericalGradient((v) => rmsNorm(x, v).y, weight, dy),
    ),
  ).toBeLessThan(2e-4);
});
