import { UserError } from 'fp8-core';

/** A decoder-only transformer: GPT-2's shape by default, Llama's with rope, rms, swiglu, no biases and an untied head. */
export interface GptConfig {
  vocabSize: number;
  /** Longest sequence; the number of learned positions. */
  maxSeqLen: number;
  numLayers: number;
  numHeads: number;
  /** Key and value heads; fewer than numHeads is grouped-query attention. */
  numKvHeads: number;
  hiddenSize: number;
  ffnSize: number;
  position: 'learned' | 'rope';
  ropeTheta: number;
  norm: 'layer' | 'rms';
  activation: 'gelu' | 'swiglu';
  bias: boolean;
  /** The output head shares the embedding's weight. */
  tied: boolean;
  dropout: number;
  normEps: number;
}

const gpt2 = {
  position: 'learned',
  ropeTheta: 10000,
  norm: 'layer',
  activation: 'gelu',
  bias: true,
  tied: true,
  dropout: 0,
  normEps: 1e-5,
} as const;

const llama = { ...gpt2, position: 'rope', norm: 'rms', activation: 'swiglu', bias: false, tied: false } as const;

function size(numLayers: number, numHeads: number, hiddenSize: number, vocabSize: number, maxSeqLen: number) {
  return { numLayers, numHeads, numKvHeads: numHeads, hiddenSize, ffnSize: 4 * hiddenSize, vocabSize, maxSeqLen };
}

/** Named sizes of the command line. */
export const presets: Readonly<Record<string, GptConfig>> = {
  'gpt-nano': { ...gpt2, ...size(4, 4, 128, 512, 128) },
  'gpt-12m': { ...gpt2, ...size(6, 6, 384, 4096, 256) },
  'gpt-30m': { ...gpt2, ...size(8, 8, 512, 8192, 512) },
  'gpt2-124m': { ...gpt2, ...size(12, 12, 768, 50257, 1024) },
  'gpt2-355m': { ...gpt2, ...size(24, 16, 1024, 50257, 1024) },
  'gpt2-774m': { ...gpt2, ...size(36, 20, 1280, 50257, 1024) },
  'gpt2-1.5b': { ...gpt2, ...size(48, 25, 1600, 50257, 1024) },
  'llama-nano': { ...llama, ...size(4, 4, 128, 512, 128), ffnSize: 352 },
  'llama-15m': { ...llama, ...size(6, 6, 384, 4096, 256), ffnSize: 1024 },
  'llama-160m': { ...llama, ...size(12, 12, 768, 32000, 1024), ffnSize: 2048 },
  'gpt-7b': { ...gpt2, ...size(32, 32, 4096, 50257, 2048), position: 'rope' },
};

/** @throws UserError if there is no preset of that name */
export function presetNamed(name: string): GptConfig {
  if (!Object.hasOwn(presets, name)) {
    throw new UserError(`preset "${name}" is unknown; there are ${Object.keys(presets).join(', ')}`);
  }
  return presets[name];
}

/** @throws UserError naming the field, its value and the rule it breaks */
export function checkConfig(c: GptConfig): GptConfig {
  const whole = ['vocabSize', 'maxSeqLen', 'numLayers', 'numHeads', 'numKvHeads', 'hiddenSize', 'ffnSize'] as const;
  for (const key of whole) {
    if (!Number.isInteger(c[key]) || c[key] < 1)
      throw new UserError(`model config: ${key} is ${c[key]}; need a whole number >= 1`);
  }
  if (c.hiddenSize % c.numHeads) {
    throw new UserError(`model config: hiddenSize ${c.hiddenSize} is not a multiple of numHeads ${c.numHeads}`);
  }
  if (c.numHeads % c.numKvHeads) {
    throw new UserError(`model config: numHeads ${c.numHeads} is not a multiple of numKvHeads ${c.numKvHeads}`);
  }
  const headDim = c.hiddenSize / c.numHeads;
  if (c.position === 'rope' && headDim % 2)
    throw new UserError(`model config: rope needs an even head size, got ${headDim}`);
  if (!(c.dropout >= 0 && c.dropout < 1))
    throw new UserError(`model config: dropout ${c.dropout}; need 0 <= dropout < 1`);
  const choices = { position: ['learned', 'rope'], norm: ['layer', 'rms'], activation: ['gelu', 'swiglu'] } as const;
  for (const [key, allowed] of Object.entries(choices) as [keyof typeof choices, readonly string[]][]) {
    if (!allowed.includes(c[key]))
      throw new UserError(`model config: ${key} is "${c[key]}"; need one of ${allowed.join(', ')}`);
  }
  return c;
}

/**
 * Checks that a model can be cut over the ranks of a tensor group. The vocabulary always can: shares may differ.
 * @throws UserError with the numbers if heads, widths or the vocabulary do not divide
 */
export function checkTensorParallel(c: GptConfig, size: number): void {
  for (const key of ['numHeads', 'numKvHeads', 'ffnSize'] as const) {
    if (c[key] % size) {
      throw new UserError(
        `tensor parallelism: ${key} ${c[key]} is not a multiple of tensor parallel size ${size}; choose a size that divides it`,
      );
    }
  }
  if (c.vocabSize < size)
    throw new UserError(`tensor parallelism: vocabSize ${c.vocabSize} is less than tensor parallel size ${size}`);
}
