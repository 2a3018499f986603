// Hugging Face models in and out, against PyTorch twins with transformers' names and formulas (benchmarks/oracle/torch_hf.py), which
// made the tiny models of golden/hf and their logits in float64.
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { empty, modelContext, recipes, scope } from 'fp8-core';
import { ByteTokenizer, Gpt, type GptConfig, presets, uniform } from 'fp8-models';
import { afterAll, describe, expect, test } from 'vitest';
import { backendFor } from '../src/backend.ts';
import { readFloats } from '../src/generate.ts';
import { latestCheckpoint } from '../src/files/index.ts';
import { exportModel } from '../src/hf/export.ts';
import { importModel } from '../src/hf/import.ts';
import { loadModel } from '../src/load.ts';
import { runTraining } from '../src/run.ts';
import { assignWeights, openWeights } from '../src/weights.ts';
import { userError } from './user_error.ts';

const golden = (name: string): string => fileURLToPath(new URL(`golden/hf/${name}`, import.meta.url));
const models = ['gpt2', 'gpt2-bare', 'llama', 'llama-shards'] as const;
const folder = mkdtempSync(join(tmpdir(), 'fp8-hf-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Logits are up to 5; PyTorch's own float32 is 4e-6 away from its float64. */
const tolerance = 2e-5;

let made = 0;
const fresh = (): string => join(folder, String(made++));
const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));

/** Logits [T][V] of a run or a folder, in fp32 on the CPU backend, token by token through the cache. */
function logitsOf(path: string, tokens: number[]): number[][] {
  const weights = openWeights(path);
  const backend = backendFor('auto');
  const model = new Gpt(modelContext(backend, recipes.fp32), weights.config);
  assignWeights(weights, model.parameters());
  weights.close();
  const caches = model.makeCaches(1, tokens.length);
  const rows = tokens.map((token, at) =>
    scope(() => {
      const t = empty(backend, [1, 1], 'i32');
      backend.write(t.handle, new Uint8Array(Int32Array.of(token).buffer));
      return [...readFloats(model.logits(t, caches, at))];
    }),
  );
  for (const cache of caches) for (const t of Object.values(cache)) t.release();
  model.release();
  return rows;
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

  test('has the logits of its PyTorch twin, read in place and imported', () => {
    expect(worst(logitsOf(golden(name), tokens), logits)).toBeLessThan(tolerance);
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

/** A copy of a golden model with fields of config.json changed. */
function withConfig(name: (typeof models)[number], fields: object): string {
  const dir = fresh();
  cpSync(golden(name), dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...readJson(dir, 'config.json'), ...fields }));
  return dir;
}

/** A copy whose safetensors header is changed; the tensors stay as they are. */
function withHeader(name: (typeof models)[number], change: (header: Record<string, Entry>) => void): string {
  const dir = withConfig(name, {});
  const file = join(dir, 'model.safetensors');
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  change(header);
  const text = Buffer.from(JSON.stringify(header));
  const first8 = Buffer.alloc(8);
  first8.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([first8, text, bytes.subarray(8 + length)]));
  return dir;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const c_fc = 'transformer.h.1.mlp.c_fc.weight';

describe('is refused in one line that names it:', () => {
  test.each<[what: string, dir: () => string, line: RegExp]>([
    ['a folder that is none', () => join(folder, 'nowhere'), /nowhere is neither a run nor a Hugging Face model/],
    [
      'another family',
      () => withConfig('gpt2', { model_type: 'bert' }),
      /model_type is "bert"; fp8lm reads GPT2LMHeadModel, Llama/,
    ],
    [
      'another head',
      () => withConfig('gpt2', { architectures: ['GPT2ForSequenceClassification'] }),
      /architectures is \["GPT2For/,
    ],
    [
      'the exact GELU',
      () => withConfig('gpt2', { activation_function: 'gelu' }),
      /activation_function is "gelu"; .*"gelu_new"/,
    ],
    ['another attention scale', () => withConfig('gpt2', { scale_attn_weights: false }), /scale_attn_weights is false/],
    [
      'scaled positions',
      () => withConfig('llama', { rope_scaling: { rope_type: 'llama3', factor: 8 } }),
      /rope_scaling: rope_type is "llama3"/,
    ],
    [
      'half of the biases',
      () => withConfig('llama', { attention_bias: true }),
      /mlp_bias is false; .*attention_bias is true/,
    ],
    [
      'heads of a size of their own',
      () => withConfig('llama', { head_dim: 8 }),
      /head_dim is 8; fp8lm computes 4 only/,
    ],
    [
      'quantised weights',
      () => withConfig('llama', { quantization_config: {} }),
      /quantization_config is \{\}; .*F32, F16 or BF16/,
    ],
    [
      'a size that is none',
      () => withConfig('gpt2', { n_layer: '2' }),
      /config.json: n_layer is "2"; need a whole number >= 1/,
    ],
    [
      'a size that is missing',
      () => withConfig('llama', { hidden_size: null }),
      /hidden_size is missing; need a whole number/,
    ],
    [
      'heads that do not divide',
      () => withConfig('gpt2', { n_head: 3 }),
      /config.json: .*hiddenSize 16 is not a multiple of numHeads 3/,
    ],
    [
      'more layers than there are',
      () => withConfig('gpt2', { n_layer: 1e9 }),
      /no tensor transformer.h.2.ln_1.weight \[16\].*has 28 tensors/,
    ],
    [
      'fewer layers than there are',
      () => withConfig('gpt2', { n_layer: 1 }),
      /tensor transformer.h.1.* is no part of a GPT2LMHeadModel/,
    ],
    [
      'a shape',
      () => withConfig('gpt2', { n_inner: 63 }),
      /transformer.h.0.mlp.c_fc.weight is \[16,64\], .*asks for \[16,63\]/,
    ],
    [
      'a transposed matrix',
      () => withHeader('gpt2', (h) => void h[c_fc].shape.reverse()),
      /c_fc.weight is \[64,16\], .*asks for \[16,64\]/,
    ],
    [
      'a tensor under another name',
      () =>
        withHeader('llama', (h) => {
          h['model.layers.0.self_attn.q_norm.weight'] = h['model.norm.weight'];
          delete h['model.norm.weight'];
        }),
      /no tensor model.norm.weight \[16\]/,
    ],
    [
      'a dtype',
      () =>
        withHeader('gpt2', (h) => {
          h[c_fc].dtype = 'I32';
        }),
      /c_fc.weight is I32; weights are read in F32, F16, BF16/,
    ],
    [
      'dtypes that do not agree',
      () =>
        withHeader('llama', (h) => {
          // Twice the rows at half the width: the bytes fit.
          Object.assign(h['model.layers.0.mlp.up_proj.weight'], { dtype: 'BF16', shape: [48, 16] });
        }),
      /up_proj.weight is \[48,16\], .*asks for \[24,16\]/,
    ],
    [
      'a truncated file',
      () => {
        const dir = withConfig('gpt2', {});
        truncateSync(join(dir, 'model.safetensors'), 20_000);
        return dir;
      },
      /model.safetensors is not a valid safetensors file: its tensors need \d+ bytes but \d+ follow/,
    ],
    [
      'a value that is not finite',
      () => {
        const dir = withConfig('gpt2', {});
        const bytes = readFileSync(join(dir, 'model.safetensors'));
        bytes.writeFloatLE(Number.NaN, bytes.length - 4);
        writeFileSync(join(dir, 'model.safetensors'), bytes);
        return dir;
      },
      /transformer.ln_f.bias has a value that is not finite/,
    ],
    [
      'a shard that is not there',
      () => {
        const dir = withConfig('llama-shards', {});
        rmSync(join(dir, 'model-00002-of-00002.safetensors'));
        return dir;
      },
      /cannot read .*model-00002-of-00002.safetensors: it does not exist/,
    ],
    [
      'an index that leads outside',
      () => {
        const dir = withConfig('llama-shards', {});
        const index = join(dir, 'model.safetensors.index.json');
        writeFileSync(index, readFileSync(index, 'utf8').replace('model-00002', '../model-00002'));
        return dir;
      },
      /only plain file names are allowed/,
    ],
    [
      'a pickle',
      () => {
        const dir = withConfig('gpt2', {});
        renameSync(join(dir, 'model.safetensors'), join(dir, 'pytorch_model.bin'));
        return dir;
      },
      /pytorch_model.bin is a Python pickle/,
    ],
  ])('%s', (_, dir, line) => {
    const path = dir();
    const run = fresh();
    expect(userError(() => importModel(path, run))).toMatch(line);
    expect(latestCheckpoint(run)).toBeUndefined();
  });

  test('a folder with a run, for an import, and one with anything, for an export', () => {
    const run = fresh();
    importModel(golden('gpt2'), run);
    expect(userError(() => importModel(golden('gpt2'), run))).toMatch(/holds a run already/);
    expect(userError(() => exportModel(run, run))).toMatch(/is not empty/);
  });

  test('a value that f16 does not hold', () => {
    const run = fresh();
    const dir = withConfig('gpt2', {});
    const file = join(dir, 'model.safetensors');
    const bytes = readFileSync(file);
    bytes.writeFloatLE(1e6, bytes.length - 4);
    writeFileSync(file, bytes);
    importModel(dir, run);
    const out = fresh();
    expect(userError(() => exportModel(run, out, 'f16'))).toMatch(/has the value 1000000, beyond f16/);
    expect(readdirSync(folder).filter((name) => name.startsWith(basename(out)))).toEqual([]);
  });
});

test('a damaged folder is refused as a user’s mistake, or read as what it says; never anything else', () => {
  const draws = Number(process.env.HF_MUTATIONS ?? 400);
  const dir = withConfig('llama-shards', {});
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(new ByteTokenizer({ specialTokens: [] }).toJSON()));
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...readJson(dir, 'config.json'), vocab_size: 256 }));
  const files = ['config.json', 'model.safetensors.index.json', 'tokenizer.json', 'model-00001-of-00002.safetensors'];
  let refused = 0;
  for (let i = 0; i < draws; i++) {
    const file = join(dir, files[i % files.length]);
    const whole = readFileSync(file);
    const bytes = Buffer.from(whole);
    const at = (n: number): number => Math.floor(uniform(1, i, n) * Math.min(bytes.length, 1500));
    const from = at(0);
    if (i % 3 === 0) bytes[from] ^= 1 << (at(1) % 8);
    else if (i % 3 === 1)
      bytes.fill('0129"{}[],:- eE.'.charCodeAt(at(1) % 16), from, Math.min(bytes.length, from + 1 + (at(2) % 3)));
    else bytes.copy(bytes, from, at(1), at(1) + (at(2) % 40));
    writeFileSync(file, bytes);
    const error = userError(() => {
      const weights = openWeights(dir);
      for (const p of ['wte.weight', 'h.1.attn.qkv.bias', 'lnf.weight']) weights.read(p);
      weights.close();
    });
    refused += Number(error !== 'no error');
    writeFileSync(file, whole);
  }
  expect(refused).toBeGreaterThan(draws / 3);
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
