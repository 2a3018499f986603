// Hugging Face models in and out, against PyTorch twins with transformers' names and formulas (benchmarks/oracle/torch_hf.py), which
// gave the logits in float64.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { empty, modelContext, recipes, scope, type Tensor } from 'fp8-core';
import { Gpt, type GptConfig, presets } from 'fp8-models';
import { describe, expect, test } from 'vitest';
import { backendFor } from '../src/backend.ts';
import { readFloats } from '../src/generate.ts';
import { exportModel } from '../src/hf/export.ts';
import { importModel } from '../src/hf/import.ts';
import { loadModel } from '../src/load.ts';
import { runTraining } from '../src/run.ts';
import { assignWeights, openWeights } from '../src/weights.ts';
import { fresh, golden, models, readJson } from './hf_models.ts';

/** Logits are up to 5; PyTorch's own float32 is 4e-6 away from its float64. */
const tolerance = 2e-5;
const backend = backendFor('auto');

function load(path: string): Gpt {
  const weights = openWeights(path);
  const model = new Gpt(modelContext(backend, recipes.fp32), weights.config);
  assignWeights(weights, model.parameters());
  weights.close();
  return model;
}

function upload(shape: number[], values: readonly number[]): Tensor {
  const t = empty(backend, shape, 'i32');
  backend.write(t.handle, new Uint8Array(Int32Array.from(values).buffer));
  return t;
}

/** Logits [T][V] of a run or a folder, in fp32, token by token through the cache. */
function logitsOf(path: string, tokens: number[]): number[][] {
  const model = load(path);
  const caches = model.makeCaches(1, tokens.length);
  const rows = tokens.map((token, at) =>
    scope(() => [...readFloats(model.logits(upload([1, 1], [token]), caches, at))]),
  );
  for (const cache of caches) for (const t of Object.values(cache)) t.release();
  model.release();
  return rows;
}

/** Loss of predicting each token after the first, in fp32, all at once as in training. */
function lossOf(path: string, tokens: number[]): number {
  const model = load(path);
  const [seq, targets] = [tokens.length - 1, tokens.slice(1)];
  const loss = scope(
    () => readFloats(model.loss(upload([seq, 1], tokens.slice(0, -1)), upload([seq, 1], targets), seq))[0],
  );
  model.release();
  return loss;
}

/** The same from logits. */
function lossOfLogits(logits: number[][], tokens: number[]): number {
  const terms = tokens.slice(1).map((target, t) => {
    const top = Math.max(...logits[t]);
    return top + Math.log(logits[t].reduce((sum, v) => sum + Math.exp(v - top), 0)) - logits[t][target];
  });
  return terms.reduce((a, b) => a + b) / terms.length;
}

/** The largest difference of two [T][V]. */
function worst(a: number[][], b: number[][]): number {
  expect(a.map((row) => row.length)).toEqual(b.map((row) => row.length));
  return Math.max(...a.flatMap((row, t) => row.map((v, i) => Math.abs(v - b[t][i]))));
}

/** Every tensor of a folder, by the name that transformers gives it: dtype, shape, bytes in hex. */
function tensorsOf(path: string): Record<string, unknown> {
  const files = readdirSync(path).filter((file) => file.endsWith('.safetensors'));
  const all: Record<string, unknown> = {};
  for (const file of files) {
    const bytes = readFileSync(join(path, file));
    const length = Number(bytes.readBigUInt64LE(0));
    const { __metadata__, ...header } = JSON.parse(bytes.subarray(8, 8 + length).toString());
    expect(__metadata__).toEqual({ format: 'pt' });
    for (const [name, { dtype, shape, data_offsets: at }] of Object.entries<Record<string, number[]>>(header)) {
      if (/^h\.\d\.attn\.bias$/.test(name)) continue;
      const data = bytes.subarray(8 + length + at[0], 8 + length + at[1]).toString('hex');
      all[/^(wte|wpe|h|ln_f)\./.test(name) ? `transformer.${name}` : name] = { dtype, shape, data };
    }
  }
  return all;
}

describe.each(models)('%s', (name) => {
  const { tokens, logits } = readJson(golden(name), 'golden.json') as { tokens: number[]; logits: number[][] };

  test('has the logits and the loss of its PyTorch twin, read in place and imported', () => {
    expect(worst(logitsOf(golden(name), tokens), logits)).toBeLessThan(tolerance);
    expect(Math.abs(lossOf(golden(name), tokens) - lossOfLogits(logits, tokens))).toBeLessThan(tolerance);
    const run = fresh();
    importModel(golden(name), run);
    expect(worst(logitsOf(run, tokens), logits)).toBeLessThan(tolerance);
  });

  test('comes out of an export as it went in, and into an import as it came out', () => {
    const [run, out, again] = [fresh(), fresh(), fresh()];
    importModel(golden(name), run);
    exportModel(run, out);
    importModel(out, again);
    expect(tensorsOf(out)).toEqual(tensorsOf(golden(name)));
    for (const file of ['model.safetensors', 'config.json'])
      expect(readFileSync(join(again, 'step-0', file)).equals(readFileSync(join(run, 'step-0', file))), file).toBe(
        true,
      );
  });
});

test('an export that was killed leaves nothing behind the next one, and one that goes on is let alone', () => {
  const [run, out] = [fresh(), fresh()];
  importModel(golden('gpt2'), run);
  const { pid: dead } = spawnSync(process.execPath, ['--version']);
  const [killed, alive, other] = [`${out}.tmp-${dead}`, `${out}.tmp-${process.ppid}`, `${out}.tmp-notes`];
  for (const path of [killed, alive, other]) mkdirSync(path);
  exportModel(run, out);
  expect([killed, alive, other, out].map((path) => existsSync(path))).toEqual([false, true, true, true]);
});

describe('a run in FP8', () => {
  // As the backend's own kernels decode them.
  const valuesHere = (run: string): Map<string, number[]> => {
    const { model } = loadModel(run);
    const values = model.parameters().map((p): [string, number[]] =>
      scope(() => {
        const y = empty(p.backend, p.shape, 'f32');
        p.backend.kernels.cast({ y, x: p.data, n: p.size, random: 0 });
        return [p.name, [...readFloats(y)]];
      }),
    );
    model.release();
    return new Map(values);
  };

  test.each<[recipe: string, error: number]>([
    ['o2', 0],
    ['bf16', 2 ** -8],
    ['o3', 2 ** -4],
  ])('is exported as its weights are: %s, or its masters, which are nearer than %d', async (recipe, error) => {
    const model: GptConfig = {
      ...presets['llama-nano'],
      numLayers: 1,
      hiddenSize: 32,
      ffnSize: 48,
      vocabSize: 257,
      maxSeqLen: 16,
    };
    const [run, out] = [fresh(), fresh()];
    mkdirSync(run);
    writeFileSync(join(run, 'text.txt'), 'the quick brown fox '.repeat(50));
    await runTraining({
      model,
      recipe,
      data: join(run, 'text.txt'),
      tokenizer: 'byte',
      steps: 3,
      batch: 2,
      lr: 0.01,
      out: run,
    });
    exportModel(run, out);
    const exported = openWeights(out);
    let largest = 0;
    for (const [name, values] of valuesHere(run)) {
      const { bytes } = exported.read(name);
      const got = new Float32Array(bytes.buffer);
      expect(got.length).toBe(values.length);
      // e4m3 is subnormal below 2^-6 of its scale; relative errors are of larger ones.
      const floor = Math.max(...values.map(Math.abs)) / 2 ** 8;
      values.forEach((v, i) => (largest = Math.max(largest, Math.abs(v - got[i]) / Math.max(Math.abs(v), floor))));
    }
    exported.close();
    expect(largest).toBeLessThanOrEqual(error);
    expect(largest).toBeGreaterThanOrEqual(error / 4);
  });
});

/** A Python that has PyTorch, for the other half of the circle: what we export, read by the twin. */
const python = [process.env.PYTHON, '/usr/bin/python3', 'python3'].find(
  (path) => path && spawnSync(path, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0,
);
const twin = fileURLToPath(new URL('../../../benchmarks/oracle/torch_hf.py', import.meta.url));

test.skipIf(!python)('what is exported in bf16 has, in its PyTorch twin, the logits that it has here', () => {
  const [run, out] = [fresh(), fresh()];
  importModel(golden('llama'), run);
  exportModel(run, out, 'bf16');
  const { tokens, logits } = readJson(golden('llama'), 'golden.json');
  const { stdout, stderr } = spawnSync(python as string, [twin, 'logits', out, tokens.join()], { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(worst(JSON.parse(stdout), logitsOf(out, tokens))).toBeLessThan(tolerance);
  // Three digits of the weights are gone, no more.
  expect(worst(JSON.parse(stdout), logits)).toBeGreaterThan(1e-3);
  expect(worst(JSON.parse(stdout), logits)).toBeLessThan(0.3);
});
