import { ledger } from 'fp8-core';
import { Mesh, runThreads } from 'fp8-dist';
import { type GptConfig, presetNamed } from 'fp8-models';
import { describe, expect, it } from 'vitest';
import { type TensorJob, type TensorResult, trainOn } from './ranks/tensor.ts';

const module = new URL('./ranks/tensor.ts', import.meta.url);
// The ranks are threads of this process and share one pool: more threads would only wait for each other.
process.env.FP8_THREADS = '1';
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

/** Every layout's losses against one rank's. */
async function compare(
  size: number,
  base: TensorJob,
  layouts: Partial<TensorJob>[],
  tolerance: number,
): Promise<number> {
  const want = trainOn(Mesh.single(), base);
  const jobs = layouts.map((layout) => ({ ...base, ...layout }));
  const ranks = await runThreads<TensorResult[]>(size, module, jobs);
  let worst = 0;
  for (const results of ranks) {
    results.forEach((got, i) => {
      const differences = want.losses.map((loss, s) => Math.abs(got.losses[s] - loss) / loss);
      differences.push(Math.abs(got.evaluated - want.evaluated) / want.evaluated);
      differences.push(Math.max(...want.norms.map((norm, s) => Math.abs(got.norms[s] - norm) / norm)) / 100);
      worst = Math.max(worst, ...differences);
      expect(Math.max(...differences), `${JSON.stringify(layouts[i])}: ${differences}`).toBeLessThan(tolerance);
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
    it(`GPT with dropout, tp ${size}, with and without sequence parallelism`, async () => {
      await compare(size, job(tiny), layouts, 1e-5);
      expect(ledger.total()).toBe(0);
    });
    it(`Llama, tp ${size}, micro-batches`, async () => {
      await compare(size, job(llamaTiny, { gradAccum: 2, steps: 6 }), layouts.slice(0, 2), 1e-5);
    });
    it.runIf(all)(`gpt-nano, 50 steps, tp ${size}`, async () => {
      const nano = job(presetNamed('gpt-nano'), { steps: 50, seq: 64 });
      const worst = await compare(size, nano, layouts, 1e-5);
      console.log(`gpt-nano, tp ${size}: largest relative difference of a loss ${worst}`);
    });
  }
});
