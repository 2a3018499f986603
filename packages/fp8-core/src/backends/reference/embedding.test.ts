import { expect, it } from 'vitest';
import { tensorFrom, valuesOf } from '../../cases/tensors.ts';
import { empty } from '../../tensor.ts';
import { referenceBackend } from '../reference.ts';

const ref = referenceBackend();
const k = ref.kernels;
// Rows are t * batch + b: positions 2, 2, 3, 3 for a batch of 2 that starts at position 2.
const shape = { rows: 4, dim: 2, vocab: 3, vocab_start: 10, batch: 2, position: 2, max_seq: 4 };
const tokens = () => tensorFrom(ref, 'i32', [12, 10, 9, 12]);

it('adds token and position vectors; a token of another slice of the vocabulary gives zeros', () => {
  const table = tensorFrom(ref, 'e4m3', [1, 2, 3, 4, 5, 6], 2);
  const positions = tensorFrom(ref, 'f32', [0, 0, 0, 0, 10, 20, 30, 40]);
  const y = empty(ref, [8], 'f32');
  k.embedding_forward({ y, tokens: tokens(), table, positions, ...shape });
  expect(Array.from(valuesOf(y))).toEqual([15, 26, 11, 22, 0, 0, 35, 46]);
  k.embedding_forward({ y, tokens: tokens(), table, ...shape });
  expect(Array.from(valuesOf(y))).toEqual([5, 6, 1, 2, 0, 0, 5, 6]);
});

it('backward adds each row to its token and its position', () => {
  const dtable = tensorFrom(ref, 'f32', [0, 0, 0, 0, 100, 100]);
  const dpositions = tensorFrom(ref, 'f32', new Float32Array(8));
  const dy = tensorFrom(ref, 'bf16', [1, 2, 3, 4, 5, 6, 7, 8]);
  k.embedding_backward({ dtable, dpositions, tokens: tokens(), dy, ...shape });
  expect(Array.from(valuesOf(dtable))).toEqual([3, 4, 0, 0, 108, 110]);
  expect(Array.from(valuesOf(dpositions))).toEqual([0, 0, 0, 0, 4, 6, 7, 8]);
});

it('refuses positions beyond the table', () => {
  const y = empty(ref, [8], 'f32');
  const table = tensorFrom(ref, 'f32', new Float32Array(6));
  const positions = tensorFrom(ref, 'f32', new Float32Array(8));
  expect(() => k.embedding_forward({ y, tokens: tokens(), table, positions, ...shape, position: 3 })).toThrow(
    'embedding_forward: positions [3, 5) end beyond 4',
  );
});
