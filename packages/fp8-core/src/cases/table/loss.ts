import { type CaseRandom, close, input, type KernelCase, kernelCase, output } from '../case.ts';

const acts = ['f32', 'bf16'] as const;
const loss = close(1e-5, 2e-6, 'float32 exp and sums');
const gradient = (t: 'f32' | 'bf16') =>
  t === 'f32' ? close(2e-5, 1e-6, 'float32 exp', 1e-7) : close(2 ** -7, 1e-6, 'one step of bf16', 1e-7);

const cases: KernelCase[] = acts.flatMap((t) =>
  [
    { rows: 1, vocab: 1 },
    { rows: 13, vocab: 37 },
    { rows: 5, vocab: 1003 },
  ].flatMap(({ rows, vocab }) =>
    [0, 0.1].flatMap((smoothing) =>
      [0, 1].map((backward) =>
        kernelCase(
          'softmax_cross_entropy',
          `${t}, ${rows} x ${vocab}, smoothing ${smoothing}${backward ? ', backward' : ''}`,
          (r) => {
            const targets = r.integers(rows, 0, vocab);
            if (rows > 3) targets[2] = -1;
            if (rows > 3) targets[3] = vocab - 1;
            return {
              logits: input(t, r.normals(rows * vocab, 3)),
              loss: output('f32', rows),
              targets: input('i32', targets),
              rows,
              vocab,
              stride: vocab,
              grad_scale: backward ? 0.37 : 1,
              smoothing,
              backward,
            };
          },
          { loss, ...(backward ? { logits: gradient(t) } : {}) },
        ),
      ),
    ),
  ),
);

/** Longer than what a block of the CUDA backend keeps in registers. */
const long: KernelCase[] = acts.map((t) =>
  kernelCase(
    'softmax_cross_entropy',
    `${t}, 2 x 23003, smoothing 0.1, backward`,
    (r) => ({
      logits: input(t, r.normals(2 * 23_003, 3)),
      loss: output('f32', 2),
      targets: input('i32', [22_999, 7]),
      rows: 2,
      vocab: 23_003,
      stride: 23_003,
      grad_scale: 0.37,
      smoothing: 0.1,
      backward: 1,
    }),
    { loss, logits: gradient(t) },
  ),
);

const padded: KernelCase[] = acts.flatMap((t) =>
  [0, 1].map((backward) =>
    kernelCase(
      'softmax_cross_entropy',
      `${t}, 5 x 37 in rows of 48${backward ? ', backward' : ''}`,
      (r) => ({
        logits: input(t, r.normals(5 * 48, 3)),
        loss: output('f32', 5),
        targets: input('i32', [36, 0, -1, 7, 20]),
        rows: 5,
        vocab: 37,
        stride: 48,
        grad_scale: 0.37,
        smoothing: 0.1,
        backward,
      }),
      { loss, ...(backward ? { logits: gradient(t) } : {}) },
    ),
  ),
);

const extreme: KernelCase[] = acts.map((t) =>
  kernelCase(
    'softmax_cross_entropy',
    `${t}, huge logits, all rows but one ignored`,
    (r) => ({
      logits: input(t, r.normals(3 * 65, 1e4)),
      loss: output('f32', 3),
      targets: input('i32', [-1, 7, -100]),
      rows: 3,
      vocab: 65,
      stride: 65,
      grad_scale: 1,
      smoothing: 0,
      backward: 1,
    }),
    { loss, logits: gradient(t) },
  ),
);

/** Stats as ranks would tell them: of `parts` slices of random logits, the second of which is the one at hand. */
const shards: KernelCase[] = acts.flatMap((t) =>
  [
    { rows: 13, vocab: 37 },
    { rows: 5, vocab: 1003 },
  ].flatMap(({ rows, vocab }) => [
    kernelCase(
      'softmax_stats',
      `${t}, ${rows} x ${vocab}`,
      (r) => ({
        stats: output('f32', rows * 4),
        logits: input(t, r.normals(rows * vocab, 3)),
        targets: input('i32', [-1, vocab, 2 * vocab - 1, 2 * vocab, ...r.integers(rows - 4, 0, 3 * vocab)]),
        rows,
        vocab,
        vocab_start: vocab,
      }),
      { stats: close(1e-5, 2e-6, 'float32 exp and sums', 1e-3) },
    ),
    ...[0, 0.1].flatMap((smoothing) =>
      [0, 1].map((backward) =>
        kernelCase(
          'sharded_cross_entropy',
          `${t}, ${rows} x ${vocab}, smoothing ${smoothing}${backward ? ', backward' : ''}`,
          (r) => {
            const stats = Float32Array.from(r.normals(3 * rows * 4, 3), (v, i) => (i % 4 === 1 ? 1 + Math.abs(v) : v));
            return {
              logits: input(t, r.normals(rows * vocab, 3)),
              loss: output('f32', rows),
              stats: input('f32', stats),
              targets: input('i32', [-1, vocab, 2 * vocab - 1, 2 * vocab, ...r.integers(rows - 4, 0, 3 * vocab)]),
              rows,
              vocab,
              vocab_start: vocab,
              parts: 3,
              total: 3 * vocab,
              grad_scale: backward ? 0.37 : 1,
              smoothing,
              backward,
            };
          },
          { loss, ...(backward ? { logits: gradient(t) } : {}) },
        ),
      ),
    ),
  ]),
);

const total = close(1e-6, 0, 'float64 sums in another order');
const sum = (name: string, values: (r: CaseRandom) => ArrayLike<number>, alpha: number): KernelCase =>
  kernelCase(
    'sum',
    name,
    (r) => {
      const x = values(r);
      return { y: output('f32', 1), x: input('f32', x), n: x.length, alpha };
    },
    { y: total },
  );

export const lossCases: readonly KernelCase[] = [
  ...cases,
  ...long,
  ...padded,
  ...extreme,
  ...shards,
  sum('one', () => [1.5], 2),
  sum('many, of one sign', (r) => r.normals(5003).map(Math.abs), 1 / 5003),
  sum('cancelling', () => [1e8, 1, -1e8, 1], -1),
  sum('none', () => [], 1),
  sum('with a NaN', () => [1, Number.NaN, 2], 1),
];
