// tp x pp x dp, sequence parallelism, interleaving, recomputation, ZeRO: every layout learns what one rank learns.
//
// A few layouts and a few drawn ones by default; LAYOUTS=all runs every (tp, pp, dp) with a product of at most 8 for 50 steps (or
// LAYOUTS_STEPS), and LAYOUTS_SEED and LAYOUTS_DRAWS choose what is drawn.
import { dtypes, recipeNamed } from 'fp8-core';
import { runThreads } from 'fp8-dist';
import { type GptConfig, presets } from 'fp8-models';
import { describe, expect, test } from 'vitest';
import { alone, type Case, type Learned } from './ranks/layouts.ts';

const all = process.env.LAYOUTS === 'all';
const steps = Number(process.env.LAYOUTS_STEPS ?? (all ? 50 : 4));
const module = new URL('./ranks/layouts.ts', import.meta.url);
/** Sizes that divide gpt-nano's four heads. */
const tensorParallel = [1, 2, 4];
// The ranks are threads of this process and share one pool: more threads would only wait for each other.
process.env.FP8_THREADS = '1';

const nano = (numLayers: number): GptConfig => ({ ...presets['gpt-nano'], numLayers });
const base: Case = {
  model: nano(4),
  recipe: 'fp32',
  steps,
  seq: 16,
  sequences: 16,
  batch: 1,
  tp: 1,
  pp: 1,
  dp: 1,
  virtual: 1,
  sp: false,
  layout: null,
  recompute: false,
  zero: 0,
};

const name = (c: Case): string =>
  [
    `tp ${c.tp} pp ${c.pp} dp ${c.dp}`,
    c.virtual > 1 && `virtual ${c.virtual}`,
    c.sp && 'sp',
    c.recompute && `recompute ${c.recompute}`,
    c.zero && `zero ${c.zero}`,
    c.layout && `layout ${c.layout}`,
  ]
    .filter(Boolean)
    .join(', ');

/** Everything that decides what one rank learns. */
const keyOf = ({ model, recipe, steps, seq, sequences, batch }: Case): string =>
  JSON.stringify([model, recipe, steps, seq, sequences, batch]);

/**
 * What one rank learns from the same micro-batches. The order of sums matters where training is rough: 12 layers of gpt-nano on one
 * rank, 12 micro-batches of one sequence against one of 12, differ by 1.3e-5 at step 40.
 */
const references = new Map<string, Learned>();
function reference(c: Case): Learned {
  const key = keyOf(c);
  let learned = references.get(key);
  if (!learned) references.set(key, (learned = alone(c)));
  return learned;
}

/** Runs cases that need at most `ranks` ranks. */
async function check(ranks: number, cases: readonly Case[], tolerance = 1e-5): Promise<void> {
  const results = await runThreads<(Learned | null)[]>(ranks, module, cases);
  cases.forEach((c, i) => {
    const want = reference(c);
    for (const [rank, list] of results.entries()) {
      const got = list[i];
      if (rank >= c.tp * c.pp * c.dp) {
        expect(got).toBeNull();
        continue;
      }
      if (!got) throw new Error(`${name(c)}: rank ${rank} did not run`);
      want.losses.forEach((loss, step) => {
        const off = Math.abs(got.losses[step] / loss - 1);
        expect(off, `${name(c)}, rank ${rank}, step ${step + 1}: ${got.losses[step]}, not ${loss}`).toBeLessThan(
          tolerance,
        );
      });
      expect(Math.abs(got.norms[0] / want.norms[0] - 1), `${name(c)}: gradient norm`).toBeLessThan(1e-4);
      expect(got.losses, `${name(c)}: ranks 0 and ${rank} see one loss`).toEqual(results[0][i]?.losses);
      expect(got.norms).toEqual(results[0][i]?.norms);
      expect(got.left, `${name(c)}, rank ${rank}: bytes left`).toBe(0);
    }
    const [first] = results.map((list) => list[i]);
    if (c.dp === 1) expect(Math.abs((first as Learned).valLoss / want.valLoss - 1)).toBeLessThan(tolerance);
  });
}

/** Layouts of gpt-nano, more layers where there are more places than layers. */
function* everyLayout(): Generator<Case> {
  for (const tp of tensorParallel) {
    for (let pp = 1; tp * pp <= 8; pp++) {
      for (let dp = 1; tp * pp * dp <= 8; dp++) {
        for (const virtual of pp > 1 ? [1, 2] : [1]) {
          for (const sp of tp > 1 ? [false, true] : [false]) {
            for (const recompute of [false, true]) {
              const micro = pp * Math.ceil(12 / (pp * dp));
              const numLayers = Math.max(4, pp * virtual);
              const zero = dp > 1 && recompute ? 1 : 0;
              yield {
                ...base,
                model: nano(numLayers),
                tp,
                pp,
                dp,
                virtual,
                sp,
                recompute,
                sequences: micro * dp,
                zero,
              };
            }
          }
        }
      }
    }
  }
}

const some: Case[] = [
  { ...base, pp: 2, virtual: 2, recompute: 'attention' },
  { ...base, pp: 4, layout: [0, 2, 1, 1], recompute: 'mlp' },
  { ...base, pp: 2, dp: 2, zero: 1, batch: 2 },
  { ...base, pp: 2, dp: 2, zero: 2, virtual: 2, recompute: true },
  { ...base, pp: 3, sequences: 9 },
  { ...base, tp: 2, pp: 2, sp: true, virtual: 2 },
  { ...base, tp: 2, dp: 2, sp: true, recompute: 'attention', zero: 1 },
];

function groupBy(cases: readonly Case[]): Map<number, Case[]> {
  const groups = new Map<number, Case[]>();
  for (const c of cases) {
    const size = c.tp * c.pp * c.dp;
    groups.set(size, [...(groups.get(size) ?? []), c]);
  }
  return groups;
}

// --- drawn layouts and shapes --------------------------------------------------------------------------------------------------

/** A small generator that repeats with its seed (mulberry32). */
function dice(seed: number): (n: number) => number {
  let a = seed >>> 0;
  return (n) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

function draw(roll: (n: number) => number, ranks: number): Case {
  const pick = <T>(list: readonly T[]): T => list[roll(list.length)];
  const tp = pick(tensorParallel);
  const pp = 1 + roll(Math.floor(ranks / tp));
  const dp = 1 + roll(Math.floor(ranks / (tp * pp)));
  const virtual = pp > 1 ? 1 + roll(3) : 1;
  const places = pp * virtual;
  const layout = Array.from({ length: places }, (_, i): number =>
    i === 0 || i === places - 1 ? roll(3) : 1 + roll(2),
  );
  if (layout.every((n) => n === 0)) layout[0]++;
  const numHeads = tp * (1 + roll(2));
  const numKvHeads = pick([numHeads, tp]);
  const hiddenSize = numHeads * 8 * (1 + roll(2));
  const model: GptConfig = {
    ...presets['gpt-nano'],
    vocabSize: 20 + roll(60),
    maxSeqLen: 24,
    numLayers: layout.reduce((a, b) => a + b, 0),
    numHeads,
    numKvHeads: numHeads % numKvHeads ? numHeads : numKvHeads,
    hiddenSize,
    ffnSize: tp * 8 * (1 + roll(6)),
    position: pick(['learned', 'rope']),
    norm: pick(['layer', 'rms']),
    activation: pick(['gelu', 'swiglu']),
    bias: pick([true, false]),
    tied: pick([true, false]),
  };
  const batch = 1 + roll(2);
  const micro = virtual > 1 ? pp * (1 + roll(2)) : 1 + roll(4);
  const sp = tp > 1 && roll(2) === 1;
  return {
    model,
    recipe: 'fp32',
    steps: 3,
    seq: tp * (1 + roll(Math.floor(24 / tp))),
    sequences: batch * micro * dp,
    batch,
    tp,
    pp,
    dp,
    virtual,
    sp,
    layout,
    recompute: pick([false, 'full', 'attention', 'mlp'] as const),
    zero: pick([0, 1, 2] as const),
  };
}

const seed = Number(process.env.LAYOUTS_SEED ?? (all ? Date.now() % 1_000_000 : 1));
const draws = Number(process.env.LAYOUTS_DRAWS ?? (all ? 100 : 8));
const drawn = (ranks: number): Case[] => {
  const roll = dice(seed);
  return Array.from({ length: draws }, () => draw(roll, ranks));
};
const drawnName = `LAYOUTS_SEED=${seed} LAYOUTS_DRAWS=${draws}`;
const hour = 3_600_000;

describe('in float32, every rank of a layout follows one rank within 1e-5', () => {
  if (all) {
    for (const [size, cases] of groupBy([...everyLayout()]))
      test(`gpt-nano, ${steps} steps, ${size} ranks: ${cases.length} layouts`, () => check(size, cases), hour);
    test(`drawn layouts and shapes: ${drawnName}`, () => check(8, drawn(8)), hour);
  } else {
    test(`gpt-nano in some layouts, and drawn ones: ${drawnName}`, () => check(4, [...some, ...drawn(4)]), hour);
  }
});

test('activations are those of as many micro-batches as the schedule keeps alive, on each stage', async () => {
  // A stage's peak is what its live micro-batches saved, plus work space that does not depend on how many there are.
  const numbers = [1, 2, 8];
  const cases = numbers.map((micro): Case => ({ ...base, steps: 3, pp: 4, sequences: 2 * micro, batch: 2, seq: 32 }));
  const results = await runThreads<Learned[]>(4, module, cases);
  for (const [rank, [one, two, many]] of results.entries()) {
    const peak = ({ bytes }: Learned): number => bytes.activationsPeak;
    const inFlight = 4 - rank;
    const each = inFlight > 1 ? peak(two) - peak(one) : 0;
    const predicted = peak(one) + (inFlight - 1) * each;
    // Two boundary tensors more or less are on their way: [32, 2, 128] in float32.
    expect(Math.abs(peak(many) - predicted), `rank ${rank}: ${peak(many)}, not ${predicted}`).toBeLessThanOrEqual(
      2 * 32 * 2 * 128 * 4,
    );
    if (inFlight > 1) expect(each).toBeGreaterThan(8 * 32 * 2 * 128 * 4);
  }
}, 3_600_000);

test('tp 2 x pp 2 keeps 0.27 of one rank, and the embedding by its vocabulary share', async () => {
  const model = presets['gpt-12m'];
  const recipes = ['bf16', 'o2', 'o3'];
  const cases = recipes.map(
    (recipe): Case => ({ ...base, model, recipe, steps: 1, tp: 2, pp: 2, sp: true, sequences: 2 }),
  );
  const ranks = await runThreads<Learned[]>(4, module, cases);
  cases.forEach((c, i) => {
    const total = ({ bytes }: Learned): number => bytes.weights + bytes.gradients + bytes.optimizer;
    const one = total(alone(c));
    const { weight, grad, master, m, v } = recipeNamed(c.recipe).embedding;
    const width = [weight, grad, master, m, v].reduce((sum, dtype) => sum + (dtype ? dtypes[dtype].bytes : 0), 0);
    // First and last stage hold half of the tied embedding each, the first also all of the positions.
    const tokens = width * model.vocabSize * model.hiddenSize;
    const positions = width * model.maxSeqLen * model.hiddenSize;
    for (const [rank, results] of ranks.entries()) {
      const most = 0.27 * (one - tokens - positions) + tokens / 2 + (rank < 2 ? positions : 0);
      const share = total(results[i]) / one;
      expect(total(results[i]), `${c.recipe}, rank ${rank}: ${share} of one rank`).toBeLessThan(most);
    }
  });
}, 3_600_000);
