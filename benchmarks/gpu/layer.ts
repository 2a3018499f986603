// One transformer layer: forward, backward and update, as the difference of models of three layers and of one, so that
// embedding, head and launch of a step cancel.
import type { CudaBackend } from 'cuda-backend';
import { modelContext, recipeNamed } from 'fp8-core';
import { checkConfig, Gpt, type GptConfig, presets } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { randomTokens, Sampler, Trainer } from 'fp8-train';
import { median } from '../report.mjs';

export interface LayerResult {
  layer: string;
  recipe: string;
  batch: number;
  seq: number;
  ms: number | null;
  /** Of the model's arithmetic: products forward and backward, attention as causal. */
  tflops: number | null;
}

const recipes = ['bf16', 'te', 'o1', 'o2', 'o3'];
const onChip = [
  { layer: 'GPT-2 1.5B', hidden: 1600, heads: 25, batch: 8, seq: 1024 },
  { layer: 'GPT 7B', hidden: 4096, heads: 32, batch: 4, seq: 2048 },
  { layer: 'GPT-175B', hidden: 12288, heads: 96, batch: 2, seq: 2048 },
];

export function measureLayers(backend: CudaBackend): LayerResult[] {
  const shapes = backend.simulated ? [{ layer: 'tiny', hidden: 32, heads: 2, batch: 1, seq: 8 }] : onChip;
  const chosen = backend.simulated ? ['o2'] : recipes;
  return shapes.flatMap(({ layer, hidden, heads, batch, seq }) =>
    chosen.map((recipe) => {
      const config = (numLayers: number): GptConfig =>
        checkConfig({
          ...presets['gpt2-124m'],
          numLayers,
          numHeads: heads,
          numKvHeads: heads,
          hiddenSize: hidden,
          ffnSize: 4 * hidden,
          vocabSize: 1024,
          maxSeqLen: seq,
        });
      const [one, three] = [1, 3].map((layers) => stepMs(backend, config(layers), recipe, batch, seq));
      if (backend.simulated) return { layer, recipe, batch, seq, ms: null, tflops: null };
      const ms = (three - one) / 2;
      // Four products of 12 C^2 weights in all, three times; attention's two, as causal, three times.
      const flops = 6 * 12 * hidden * hidden * batch * seq + 6 * batch * seq * seq * hidden;
      return { layer, recipe, batch, seq, ms, tflops: flops / ms / 1e9 };
    }),
  );
}

/** Median of ten steps on random tokens, after casts have become delayed. */
function stepMs(backend: CudaBackend, config: GptConfig, recipe: string, batch: number, seq: number): number {
  const model = new Gpt(modelContext(backend, recipeNamed(recipe), 1), config);
  const optimizer = new AdamW(model.parameters());
  const trainer = new Trainer(model, optimizer, { batch, seq, gradAccum: 1 });
  const sampler = new Sampler(randomTokens(config.vocabSize, 1), { seqLen: seq, seed: 1 });
  const step = (): number => trainer.step(() => sampler.nextBatch(batch), 1e-4).stepMs;
  const [warmup, steps] = backend.simulated ? [1, 1] : [4, 10];
  for (let i = 0; i < warmup; i++) step();
  model.context.scaling.endWarmup();
  const ms = median(Array.from({ length: steps }, step));
  optimizer.release();
  model.release();
  model.context.scaling.release();
  backend.trim();
  return ms;
}
