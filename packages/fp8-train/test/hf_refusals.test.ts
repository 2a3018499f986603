// What an import refuses: each in one line that names it, before anything is written.
import { readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ByteTokenizer, uniform } from 'fp8-models';
import { describe, expect, test } from 'vitest';
import { latestCheckpoint } from '../src/files/index.ts';
import { exportModel } from '../src/hf/export.ts';
import { importModel } from '../src/hf/import.ts';
import { openWeights } from '../src/weights.ts';
import { folder, fresh, golden, readJson, withConfig, withHeader } from './hf_models.ts';
import { userError } from './user_error.ts';

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
    expect(userError(() => exportModel(run, run))).toMatch(/is not an empty folder/);
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
