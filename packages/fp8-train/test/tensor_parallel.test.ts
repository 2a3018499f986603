import { ledger } from 'fp8-core';
import { Mesh, runThreads } from 'fp8-dist';
import { type GptConfig, presetNamed } from 'fp8-models';
import { describe, expect, it, vi } from 'vitest';
import { type TensorJob, type TensorResult, trainOn } from './ranks/tensor.ts';

const module = new URL('./ranks/tensor.ts', import.meta.url);
// The ranks are threads of this process and share one pool: more threads would only wait for each other.
process.env.FP8_THREADS = '1';
vi.setConfig({ testTimeout: 300_000 });
const all = process.env.LAYOUTS === 'all';

/** Four heads, a vocabulary that no group divides, dropout: what could depend on the layout does. */
const tiny: GptConfig = {
  ...presetNamed('gpt-nano'),
  numLayers: 2,
  hiddenSize: 32,
  ffnSize: 64,
  vocabSize: 101,
  maxSeqLen: 16,
  dropout: 0.1,
};
const llama: GptConfig = { ...presetNamed('llama-nano'), ...tiny, norm: 'rms', position: 'rope' };
const llamaTiny: GptConfig = { ...llama, activation: 'swiglu', bias: false, tied: false };

const job = (model: GptConfig, more: Partial<TensorJob> = {}): TensorJob => ({
  model,
  recipe: 'fp32',
  tensor: 1,
  steps: 12,
  batch: 2,
  seq: model.maxSeqLen,
  ...more,
});

/** Every base in every layout, its losses against one rank's. @returns the largest relative difference of a loss */
async function compare(size: number, bases: TensorJob[], layouts: Partial<TensorJob>[]): Promise<number> {
  const jobs = bases.flatMap((base) => layouts.map((layout) => ({ ...base, ...layout })));
  const wanted = bases.map((base) => trainOn(Mesh.single(), base));
  const ranks = await runThreads<TensorResult[]>(size, module, jobs);
  let worst = 0;
  for (const results of ranks) {
    results.forEach((got, i) => {
      const want = wanted[Math.floor(i / layouts.length)];
      const differences = want.losses.map((loss, s) => Math.abs(got.losses[s] - loss) / loss);
      differences.push(Math.abs(got.evaluated - want.evaluated) / want.evaluated);
      const name = JSON.stringify(layouts[i % layouts.length]);
      expect(Math.max(...differences), `${name}: ${differences}`).toBeLessThan(1e-5);
      expect(got.leaked, name).toBe(0);
      const norms = want.norms.map((norm, s) => Math.abs(got.norms[s] - norm) / norm);
      expect(Math.max(...norms), `${name}, norms: ${norms}`).toBeLessThan(1e-4);
      worst = Math.max(worst, ...differences);
    });
  }
  return worst;
}

describe('training on tensor-parallel ranks equals one rank in every step', () => {
  for (const size of [2, 4]) {
    const layouts = [
      { tensor: size },
      { tensor: size, sequenceParallel: true },
      { tensor: size, sequenceParallel: true, recompute: true },
    ];
    it(`GPT with dropout and Llama with micro-batches, tp ${size}, with and without sequence parallelism`, async () => {
      await compare(size, [job(tiny), job(llamaTiny, { gradAccum: 2, steps: 6 })], layouts);
      expect(ledger.total()).toBe(0);
    });
    it.runIf(all)(`gpt-nano, 50 steps, tp ${size}`, async () => {
      const worst = await compare(size, [job(presetNamed('gpt-nano'), { steps: 50, seq: 64 })], layouts);
      console.log(`gpt-nano, tp ${size}: largest relative difference of a loss ${worst}`);
    });
  }
});

/** Everything in one byte that a switch can bring to it. */
const allSwitches = { outputGrad: 'fp8', output: 'fp8', inputGrad: 'fp8' } as const;
/** As the paper's authors do: FP8 for layer inputs alone, which backward gathers again. */
const paper = { regather: true } as const;

describe('FP8 on tensor-parallel ranks', () => {
  const layouts: Partial<TensorJob>[] = [
    {},
    { sequenceParallel: true },
    { sequenceParallel: true, payloads: paper },
    { sequenceParallel: true, payloads: allSwitches },
    { payloads: allSwitches },
  ];
  it('o3 and o1 keep one scale over the ranks and the same windows, and lose nothing that one rank has', async () => {
    const bases = ['o3', 'o1'].map((recipe) => job({ ...tiny, dropout: 0 }, { recipe, steps: 20, tensor: 2 }));
    const jobs = bases.flatMap((base) => layouts.map((layout) => ({ ...base, ...layout })));
    const [a, b] = await runThreads<TensorResult[]>(2, module, jobs);
    jobs.forEach((one, i) => {
      const name = JSON.stringify({ ...one, model: 'tiny' });
      expect(Object.keys(a[i].scales).length).toBeGreaterThanOrEqual(8);
      expect(a[i].scales, name).toEqual(b[i].scales);
      expect(Object.keys(a[i].same).length).toBeGreaterThan(20);
      expect(a[i].same, name).toEqual(b[i].same);
      expect(a[i].losses, name).toEqual(b[i].losses);
      expect(a[i].leaked, name).toBe(0);
    });
    bases.forEach((base, i) => {
      const want = trainOn(Mesh.single(), base);
      for (const [k, layout] of layouts.entries()) {
        const { losses } = a[i * layouts.length + k];
        const worst = Math.max(...losses.map((loss, s) => Math.abs(loss - want.losses[s]) / want.losses[s]));
        // Partial sums are rounded to bf16 (8 bits) or e4m3 (4 bits) before they are added.
        const limit = layout.payloads === allSwitches ? 0.02 : 0.005;
        expect(worst, `${base.recipe} ${JSON.stringify(layout)}`).toBeLessThan(limit);
      }
    });
  });

  it('moves fewer bytes than bf16: o3, with all switches, as the paper does it', async () => {
    const model = { ...presetNamed('gpt-12m') };
    const base = job(model, { tensor: 2, sequenceParallel: true, steps: 2, batch: 1 });
    const variants = [
      { recipe: 'bf16' },
      { recipe: 'o3' },
      { recipe: 'o3', payloads: paper },
      { recipe: 'o3', payloads: allSwitches },
      { recipe: 'o3', payloads: { ...allSwitches, ...paper } },
    ];
    const [bytes] = (
      await runThreads<TensorResult[]>(
        2,
        module,
        variants.map((v) => ({ ...base, ...v })),
      )
    ).map((rank) => rank.map(({ layerBytes }) => layerBytes));
    const ratios = bytes.map((n) => n / bytes[0]);
    console.log(`gpt-12m, tp 2, sp: bytes against bf16 ${ratios.map((r) => r.toFixed(4))}, ${bytes}`);
    expect(ratios[1]).toBeLessThan(0.8);
    expect(ratios[2]).toBeLessThan(0.82);
    expect(ratios[3]).toBeLessThan(0.5);
    expect(ratios[4]).toBeLessThan(0.55);
  });
});
