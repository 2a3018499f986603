import { modelContext, nullBackend, recipes, UserError } from 'fp8-core';
import { describe, expect, test } from 'vitest';
import { type GptConfig, presets } from '../config.ts';
import { Gpt } from '../gpt.ts';
import { fromHfConfig, hfShape, toHfConfig } from './index.ts';

const tiny = { vocabSize: 61, maxSeqLen: 16, numLayers: 2, numHeads: 4, hiddenSize: 16 };
const configs: Record<string, GptConfig> = {
  gpt2: { ...presets['gpt-nano'], ...tiny, numKvHeads: 4, ffnSize: 64 },
  'gpt2 with a head of its own': { ...presets['gpt-nano'], ...tiny, numKvHeads: 4, ffnSize: 40, tied: false },
  llama: { ...presets['llama-nano'], ...tiny, numKvHeads: 2, ffnSize: 24, ropeTheta: 5e5, normEps: 1e-6 },
  'llama with biases, tied': {
    ...presets['llama-nano'],
    ...tiny,
    numKvHeads: 1,
    ffnSize: 24,
    bias: true,
    tied: true,
  },
};
const extras = { torchDtype: 'float32' };

describe.each(Object.entries(configs))('%s', (_, config) => {
  const { family, json } = toHfConfig(config, extras);

  test('goes to a config.json and back', () => {
    const through = JSON.parse(JSON.stringify(json));
    expect(fromHfConfig(through, 'config.json')).toEqual({ family, config });
  });

  test('has a table with each parameter of the model once, and each of theirs once', () => {
    const model = new Gpt(modelContext(nullBackend(), recipes.fp32), config);
    const rows = [...family.tensors(config)];
    const ours = rows.map(({ ours, shape }) => `${ours} [${shape}]`);
    expect(ours.toSorted()).toEqual(
      model
        .parameters()
        .map(({ name, shape }) => `${name} [${shape}]`)
        .toSorted(),
    );
    const theirs = rows.flatMap((row) => row.theirs.map(({ name }) => name));
    expect(new Set(theirs).size).toBe(theirs.length);
    for (const row of rows) {
      expect(row.theirs.reduce((sum, { rows: n }) => sum + n, 0)).toBe(row.shape[0]);
      const sizes = row.theirs.map((part) => hfShape(row, part).reduce((a, b) => a * b, 1));
      expect(sizes.reduce((a, b) => a + b, 0)).toBe(row.shape.reduce((a, b) => a * b, 1));
    }
    model.release();
  });
});

test('every preset is of a family, except the one with RoPE beside layer norm, which is told so', () => {
  for (const [name, config] of Object.entries(presets)) {
    if (name !== 'gpt-7b')
      expect(toHfConfig(config, extras).family.modelType).toBe(name.startsWith('llama') ? 'llama' : 'gpt2');
  }
  expect(() => toHfConfig(presets['gpt-7b'], extras)).toThrow(
    /GPT2LMHeadModel: position rope \(needs learned\); LlamaForCausalLM: norm layer \(needs rms\), activation gelu \(needs swiglu\)/,
  );
});

test('a config.json of today and of transformers 5 tell the same: rope_theta at the top or in rope_parameters', () => {
  const { json } = toHfConfig(configs.llama, extras);
  const { rope_theta, rope_scaling: _, ...rest } = json;
  const later = { ...rest, rope_parameters: { rope_type: 'default', rope_theta } };
  expect(fromHfConfig(later, 'config.json').config).toEqual(configs.llama);
});

test('values are checked before they are used', () => {
  const { json } = toHfConfig(configs.gpt2, extras);
  for (const value of [0, -1, 1.5, '16', [16], {}, true, 1e300, null])
    expect(() => fromHfConfig({ ...json, n_embd: value }, 'config.json')).toThrow(UserError);
  for (const value of [null, 3, [], 'gpt2']) expect(() => fromHfConfig(value, 'config.json')).toThrow(UserError);
  expect(() => fromHfConfig({ ...json, layer_norm_epsilon: -1 }, 'config.json')).toThrow(
    'config.json: layer_norm_epsilon is -1; need a number above 0',
  );
});
