// A checkpoint saved in any layout of ranks loads in any other, to the bit: weights, masters, moments, scales, mu, windows and the
// position in the data. Shown by saving again at once: the same bytes. All pairs of layouts with LAYOUTS=all, else each layout saves for one and loads from one.
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runThreads } from 'fp8-dist';
import { type GptConfig, presets } from 'fp8-models';
import type { RunConfig } from 'fp8-train';
import { afterAll, expect, test } from 'vitest';
import type { LayoutJob } from './ranks/checkpoint_layouts.ts';

const folder = mkdtempSync(join(tmpdir(), 'fp8lm-layouts-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const model: GptConfig = {
  ...presets['gpt-nano'],
  vocabSize: 1999,
  maxSeqLen: 16,
  numLayers: 4,
  numHeads: 4,
  numKvHeads: 4,
  hiddenSize: 32,
  ffnSize: 64,
};
const steps = 2;
const base: Partial<RunConfig> = { model, recipe: 'o3', data: 'random', steps, lr: 5e-3, batch: 1, gradAccum: 4 };

/** Name, ranks, and what differs from one rank. */
const layouts: [name: string, size: number, config: Partial<RunConfig>][] = [
  ['one', 1, {}],
  ['dp2', 2, { dp: 2 }],
  ['dp2-zero', 2, { dp: 2, zero: 1 }],
  ['pp2', 2, { pp: 2 }],
  ['pp2-virtual', 2, { pp: 2, virtual: 2 }],
  ['dp4', 4, { dp: 4 }],
  ['dp4-zero', 4, { dp: 4, zero: 1 }],
  ['dp4-zero2', 4, { dp: 4, zero: 2 }],
  ['pp4', 4, { pp: 4 }],
  ['pp2-dp2', 4, { pp: 2, dp: 2 }],
  ['pp2-dp2-zero', 4, { pp: 2, dp: 2, zero: 1 }],
  ['pp2-uneven', 2, { pp: 2, layout: [3, 1] }],
  ['tp2', 2, { tp: 2 }],
  ['tp4-sp', 4, { tp: 4, sp: true }],
  ['tp2-dp2-zero', 4, { tp: 2, dp: 2, zero: 1 }],
  ['tp2-pp2-sp', 4, { tp: 2, pp: 2, sp: true }],
];
const isTested = (i: number, j: number): boolean => process.env.LAYOUTS === 'all' || (i * 5 + j) % layouts.length === 0;

const module = new URL('./ranks/checkpoint_layouts.ts', import.meta.url);
const sizes = [...new Set(layouts.map(([, size]) => size))];

/** Runs each size's jobs on as many threads. @returns hashes by the job's folder */
async function runAll(jobs: (LayoutJob & { size: number })[]): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  for (const size of sizes) {
    const own = jobs.filter((job) => job.size === size);
    const [first] = await runThreads<string[][]>(size, module, own);
    own.forEach(({ config }, i) => found.set(config.out, first[i]));
  }
  return found;
}

test('a checkpoint of any layout loads in any other to the bit', async () => {
  const saved = await runAll(
    layouts.map(([name, size, config]) => ({ size, config: { ...base, ...config, steps, out: join(folder, name) } })),
  );
  const pairs = layouts.flatMap(([to, size, config], j) =>
    layouts.flatMap(([from], i) => (isTested(i, j) ? [{ from, to, size, config }] : [])),
  );
  const jobs = pairs.map(({ from, to, size, config }) => {
    const out = join(folder, `${from}.${to}`);
    cpSync(join(folder, from), out, { recursive: true });
    return { size, from, config: { ...base, ...config, steps, out, resume: true } };
  });
  const again = await runAll(jobs);
  expect(jobs.length).toBe(process.env.LAYOUTS === 'all' ? layouts.length ** 2 : layouts.length);
  for (const { from, config } of jobs) expect(again.get(config.out), config.out).toEqual(saved.get(join(folder, from)));
}, 600_000);
