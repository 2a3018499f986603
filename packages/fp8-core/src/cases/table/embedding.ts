import { type CaseRandom, close, input, type KernelCase, kernelCase, output } from '../case.ts';

const acts = ['f32', 'bf16'] as const;
const floats = ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'] as const;
const shape = { rows: 21 * 3, dim: 37, vocab: 50, vocab_start: 20, batch: 3, position: 4, max_seq: 25 };
const sums = close(1e-6, 1e-6, 'float32 sums over equal tokens in another order');

/** Tokens of the slice [20, 70), some of other slices, many of them repeated. */
const tokens = (r: CaseRandom) => input('i32', r.integers(shape.rows, 10, 80));

const forward: KernelCase[] = acts.flatMap((y) => [
  ...floats.flatMap((table) => [
    kernelCase('embedding_forward', `${table} + positions ${table} -> ${y}`, (r) => ({
      y: output(y, shape.rows * shape.dim),
      tokens: tokens(r),
      table: input(table, r.normals(50 * 37), table === 'f32' || table === 'bf16' ? 1 : 48),
      positions: input(table, r.normals(25 * 37), table === 'f32' || table === 'bf16' ? 1 : 32),
      ...shape,
    })),
    kernelCase('embedding_forward', `${table} -> ${y}`, (r) => ({
      y: output(y, shape.rows * shape.dim),
      tokens: tokens(r),
      table: input(table, r.normals(50 * 37)),
      ...shape,
      max_seq: 0,
      position: 1000,
    })),
  ]),
  ...floats.map((table) =>
    kernelCase('embedding_forward', `${table} + positions ${table} -> ${y}, whole vectors`, (r) => ({
      y: output(y, shape.rows * 48),
      tokens: tokens(r),
      table: input(table, r.normals(50 * 48), table === 'f32' || table === 'bf16' ? 1 : 48),
      positions: input(table, r.normals(25 * 48), table === 'f32' || table === 'bf16' ? 1 : 32),
      ...shape,
      dim: 48,
    })),
  ),
  kernelCase('embedding_forward', `f16 + positions f32 -> ${y}, whole vocabulary`, (r) => ({
    y: output(y, shape.rows * shape.dim),
    tokens: input('i32', r.integers(shape.rows, 0, 50)),
    table: input('f16', r.normals(50 * 37), 1000),
    positions: input('f32', r.normals(25 * 37)),
    ...shape,
    vocab_start: 0,
  })),
]);

const backward: KernelCase[] = acts.flatMap((dy) => [
  kernelCase(
    'embedding_backward',
    `${dy}, with positions`,
    (r) => ({
      dtable: input('f32', r.normals(50 * 37)),
      dpositions: input('f32', r.normals(25 * 37)),
      tokens: tokens(r),
      dy: input(dy, r.normals(shape.rows * shape.dim)),
      ...shape,
    }),
    { dtable: sums, dpositions: sums },
  ),
  kernelCase(
    'embedding_backward',
    `${dy}, one token everywhere`,
    (r) => ({
      dtable: input('f32', new Float32Array(50 * 37)),
      tokens: input('i32', new Int32Array(shape.rows).fill(33)),
      dy: input(dy, r.normals(shape.rows * shape.dim)),
      ...shape,
    }),
    { dtable: sums },
  ),
  // More rows than a block sorts, tokens of more than a byte, whole vectors; every third row has the same token.
  kernelCase(
    'embedding_backward',
    `${dy}, many rows`,
    (r) => ({
      dtable: input('f32', r.normals(700 * 16)),
      dpositions: input('f32', r.normals(550 * 16)),
      tokens: input(
        'i32',
        r.integers(2200, 90, 810).map((t, i) => (i % 3 ? t : 413)),
      ),
      dy: input(dy, r.normals(2200 * 16)),
      rows: 2200,
      dim: 16,
      vocab: 700,
      vocab_start: 100,
      batch: 4,
      position: 0,
      max_seq: 550,
    }),
    { dtable: close(1e-5, 2e-6, 'float32 sums over 700 equal tokens in another order'), dpositions: sums },
  ),
]);

export const embeddingCases: readonly KernelCase[] = [...forward, ...backward];
