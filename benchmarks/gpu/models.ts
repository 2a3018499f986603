// Whole training steps on random tokens, each model and recipe in a process of its own (memory starts empty, and one that
// does not fit ends alone), by `fp8lm bench step --json`.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { CudaBackend } from 'cuda-backend';

export interface ModelResult {
  preset: string;
  recipe: string;
  batch: number;
  seq: number;
  tokensPerSecond: number | null;
  tflops: number | null;
  peakGiB: number | null;
  /** Why there is no figure, for example that it does not fit. */
  failure: string | null;
}

const recipes = ['bf16', 'te', 'o1', 'o2', 'o3'];
const onChip: Model[] = [
  { preset: 'gpt2-124m', seq: 1024, batches: [16] },
  { preset: 'gpt2-1.5b', seq: 1024, batches: [4, 16] },
  { preset: 'gpt-7b', seq: 2048, batches: [1, 2, 8] },
];
const tiny: Model[] = [{ preset: 'gpt-nano', seq: 16, batches: [1] }];

interface Model {
  preset: string;
  seq: number;
  batches: number[];
}

/** Equal micro-batches side by side; of a model's best micro-batch the reader picks the row. */
export function measureModels(backend: CudaBackend, steps: number): ModelResult[] {
  const models = backend.simulated ? tiny : onChip;
  const chosen = backend.simulated ? ['o2'] : recipes;
  return models.flatMap((model) =>
    model.batches.flatMap((batch) => chosen.map((recipe) => measure(backend, model, recipe, batch, steps))),
  );
}

function measure(backend: CudaBackend, model: Model, recipe: string, batch: number, steps: number): ModelResult {
  const { preset, seq } = model;
  const row = { preset, recipe, batch, seq, tokensPerSecond: null, tflops: null, peakGiB: null, failure: null };
  const command = fileURLToPath(new URL('../bin/fp8lm.mjs', import.meta.resolve('fp8-cli')));
  const flags = { preset, recipe, batch, seq, steps: backend.simulated ? 1 : steps, warmup: backend.simulated ? 1 : 5 };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [command, 'bench', 'step', '--device', 'cuda', '--json', ...args],
    { encoding: 'utf8', maxBuffer: 1 << 26 },
  );
  if (status !== 0)
    return {
      ...row,
      failure: /out of memory/.test(stderr) ? 'does not fit' : (stderr.trim().split('\n').at(-1) ?? 'failed'),
    };
  const { tokensPerSecond, stepMs, gflops, memory } = JSON.parse(stdout) as {
    tokensPerSecond: number;
    stepMs: number;
    gflops: number;
    memory: { totalPeak: number };
  };
  if (backend.simulated) return row;
  return { ...row, tokensPerSecond, tflops: stepMs > 0 ? gflops / 1e3 : null, peakGiB: memory.totalPeak / 2 ** 30 };
}
