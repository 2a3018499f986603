import { expect, it } from 'vitest';
import { numericalGradient, relativeError } from '../../cases/gradients.ts';
import { tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { normalAt } from '../../random.ts';
import { empty } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
const [rows, vocab] = [4, 9];
const logits = Float32Array.from({ length: rows * vocab }, (_, i) => 2 * normalAt(7, 0, i));
const targets = [3, -1, 0, 8];

function run(x: Float32Array, smoothing: number, backward: number, grad_scale = 1) {
  const t = tensorFrom(ref, 'f32', x);
  const loss = empty(ref, [rows], 'f32');
  const args = {
    logits: t,
    loss,
    targets: tensorFrom(ref, 'i32', targets),
    rows,
    vocab,
    stride: vocab,
    grad_scale,
    smoothing,
    backward,
  };
  k.softmax_cross_entropy(args);
  return { loss: valuesOf(loss), logits: valuesOf(t) };
}

it('is log(vocab) for equal logits, 0 for a certain target and for an ignored row, and survives huge logits', () => {
  expect(run(new Float32Array(rows * vocab).fill(5), 0, 0).loss[0]).toBeCloseTo(Math.log(vocab), 6);
  const certain = new Float32Array(rows * vocab);
  certain[3] = 1e4;
  expect(Array.from(run(certain, 0, 0).loss.slice(0, 2))).toEqual([0, 0]);
});

it('leaves the logits alone without backward', () => {
  expect(run(logits, 0, 0).logits).toEqual(logits);
});

it.each([0, 0.1])('smoothing %d: the gradient is the derivative of the loss, times grad_scale', (smoothing) => {
  const { logits: got, loss } = run(logits, smoothing, 1, 0.25);
  expect(loss).toEqual(run(logits, smoothing, 0).loss);
  const wanted = numericalGradient((x) => run(x, smoothing, 0).loss, logits, new Float32Array(rows).fill(0.25));
  expect(relativeError(got, wanted)).toBeLessThan(2e-4);
  expect(got.slice(vocab, 2 * vocab)).toEqual(new Float32Array(vocab));
});

it('smoothing mixes the loss with the mean over the vocabulary', () => {
  const plain = run(logits, 0, 0).loss[2];
  const mean = logits.slice(2 * vocab, 3 * vocab).reduce((s, v) => s + v, 0) / vocab;
  const uniform = plain + logits[2 * vocab] - mean;
  expect(run(logits, 0.3, 0).loss[2]).toBeCloseTo(0.7 * plain + 0.3 * uniform, 5);
});

it('refuses a target beyond the vocabulary', () => {
  const args = { rows: 1, vocab: 2, stride: 2, grad_scale: 1, smoothing: 0, backward: 0 };
  const t = tensorFrom(ref, 'f32', [0, 0]);
  const loss = empty(ref, [1], 'f32');
  expect(() => k.softmax_cross_entropy({ logits: t, loss, targets: tensorFrom(ref, 'i32', [2]), ...args })).toThrow(
    'softmax_cross_entropy: target 2 of row 0; expected less than vocab 2',
  );
  expect(() =>
    k.softmax_cross_entropy({ logits: t, loss, targets: tensorFrom(ref, 'i32', [1]), ...args, stride: 1 }),
  ).toThrow('softmax_cross_entropy: stride 1 is less than vocab 2');
});

it('sum scales the sum', () => {
  const y = empty(ref, [1], 'f32');
  k.sum({ y, x: tensorFrom(ref, 'f32', [1, 2, 3.5, 100]), n: 3, alpha: 2 });
  expect(valuesOf(y)[0]).toBe(13);
});
