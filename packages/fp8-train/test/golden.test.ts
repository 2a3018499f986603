// The GPT against PyTorch in float64: loss, every gradient, and five training steps, with weights that both sides make from
// one formula (benchmarks/oracle/torch_golden.py). float32 sums: 2e-6 of the loss, 2e-5 of a gradient's largest entries.
import { readFileSync } from 'node:fs';
import { cpuBackend, isCpuBackendBuilt } from 'cpu-backend';
import {
  type Backend,
  empty,
  modelContext,
  type Parameter,
  record,
  recipes,
  referenceBackend,
  scope,
  type Tensor,
} from 'fp8-core';
import { Gpt, type GptConfig } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { describe, expect, test } from 'vitest';

interface Summary {
  shape: number[];
  sum: number;
  sumSquares: number;
  entries: [index: number, value: number][];
}

interface Variant {
  loss: number;
  losses: number[];
  gradients: Record<string, Summary>;
}

interface Golden {
  config: {
    batch: number;
    seqLen: number;
    vocabSize: number;
    hiddenSize: number;
    numHeads: number;
    numLayers: number;
    mlpHidden: number;
    ropeTheta: number;
  };
  tokens: number[];
  targets: number[];
  gpt2: Variant;
  llama: Variant;
}

const golden = JSON.parse(readFileSync(new URL('golden/gpt_torch.json', import.meta.url), 'utf8')) as Golden;
const { batch, seqLen, vocabSize, hiddenSize, numHeads, numLayers, mlpHidden, ropeTheta } = golden.config;

const common = {
  vocabSize,
  maxSeqLen: seqLen,
  numLayers,
  numHeads,
  numKvHeads: numHeads,
  hiddenSize,
  ropeTheta,
  dropout: 0,
  normEps: 1e-5,
};
const configs: Record<VariantName, GptConfig> = {
  gpt2: {
    ...common,
    ffnSize: 4 * hiddenSize,
    position: 'learned',
    norm: 'layer',
    activation: 'gelu',
    bias: true,
    tied: true,
  },
  llama: {
    ...common,
    ffnSize: mlpHidden,
    position: 'rope',
    norm: 'rms',
    activation: 'swiglu',
    bias: false,
    tied: false,
  },
};

function mix(name: string, i: number): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(name, 'ascii')) hash = Math.imul(hash ^ byte, 0x01000193);
  let x = (Math.imul(i + 1, 0x9e3779b1) ^ hash) >>> 0;
  x ^= x >>> 15;
  x = Math.imul(x, 0x85ebca6b) >>> 0;
  return (x ^ (x >>> 13)) >>> 0;
}

function formula(name: string, size: number, isMatrix: boolean): number[] {
  return Array.from({ length: size }, (_, i) => {
    const unit = mix(name, i) / 4294967296 - 0.5;
    if (isMatrix) return Math.fround(0.4 * unit);
    return Math.fround(name.endsWith('bias') ? 0.2 * unit : 1 + 0.4 * unit);
  });
}

type VariantName = 'gpt2' | 'llama';

/** PyTorch's names behind one of ours: gate and up are one matrix here, and Llama's projection is called down there. */
function partsOf(name: string, variant: VariantName): string[] {
  if (variant === 'gpt2') return [name];
  if (name.includes('gate_up')) return [name.replace('gate_up', 'gate'), name.replace('gate_up', 'up')];
  return [name.replace('mlp.proj', 'mlp.down')];
}

function upload(backend: Backend, shape: number[], values: Int32Array | Float32Array): Tensor {
  const t = empty(backend, shape, values instanceof Int32Array ? 'i32' : 'f32');
  backend.write(t.handle, new Uint8Array(values.buffer));
  return t;
}

function download(t: Tensor): Float32Array {
  const values = new Float32Array(t.size);
  t.backend.read(t.handle, new Uint8Array(values.buffer));
  return values;
}

/** [B, T] to sequence first. */
const sequenceFirst = (rows: number[]): Int32Array =>
  Int32Array.from({ length: seqLen * batch }, (_, i) => rows[(i % batch) * seqLen + Math.floor(i / batch)]);

function build(backend: Backend, variant: VariantName): Gpt {
  const model = new Gpt(modelContext(backend, recipes.fp32), configs[variant]);
  for (const p of model.parameters()) {
    const parts = partsOf(p.name, variant);
    const values = parts.flatMap((part) => formula(part, p.size / parts.length, p.shape.length === 2));
    scope(() => p.assign(upload(backend, [...p.shape], Float32Array.from(values))));
  }
  return model;
}

function lossRun(model: Gpt) {
  const { backend } = model.context;
  const tokens = upload(backend, [seqLen, batch], sequenceFirst(golden.tokens));
  const targets = upload(backend, [seqLen, batch], sequenceFirst(golden.targets));
  return record(() => model.loss(tokens, targets, seqLen * batch));
}

function compareGradient(p: Parameter, variant: VariantName): void {
  const { gradients } = golden[variant];
  const parts = partsOf(p.name, variant);
  const all = download(p.grad as Tensor);
  const size = p.size / parts.length;
  parts.forEach((name, i) => {
    const got = all.subarray(i * size, (i + 1) * size);
    const expected = gradients[name];
    expect(expected, `${name} in the golden file`).toBeDefined();
    const scale = Math.sqrt(expected.sumSquares / size);
    for (const [index, value] of expected.entries) {
      expect(Math.abs(got[index] - value), `${name}[${index}]: ${got[index]} against ${value}`).toBeLessThan(
        2e-5 * scale + 2e-5 * Math.abs(value),
      );
    }
    const squares = got.reduce((sum, g) => sum + g * g, 0);
    expect(Math.abs(squares / expected.sumSquares - 1), `${name}: sum of squares`).toBeLessThan(2e-5);
  });
}

const backends: [string, () => Backend][] = [['ref', referenceBackend]];
if (isCpuBackendBuilt()) backends.push(['cpu', cpuBackend]);

describe.each(backends)('on the %s backend', (_, makeBackend) => {
  const backend = makeBackend();
  test.each(['gpt2', 'llama'] as const)('%s has PyTorch’s loss and gradients', (variant) => {
    const model = build(backend, variant);
    scope(() => {
      const run = lossRun(model);
      expect(Math.abs(download(run.output)[0] / golden[variant].loss - 1)).toBeLessThan(2e-6);
      run.backward();
      for (const p of model.parameters()) compareGradient(p, variant);
    });
    model.release();
  });

  test.each(['gpt2', 'llama'] as const)('%s follows PyTorch’s AdamW for five steps', (variant) => {
    const model = build(backend, variant);
    const optimizer = new AdamW(model.parameters(), { weightDecay: 0.1 });
    // PyTorch's side decays vectors too.
    for (const p of optimizer.parameters) Object.assign(p, { decay: true });
    const losses = golden[variant].losses.map(() =>
      scope(() => {
        const run = lossRun(model);
        run.backward();
        optimizer.step(1e-3);
        for (const p of optimizer.parameters) p.zeroGrad();
        return download(run.output)[0];
      }),
    );
    losses.forEach((loss, i) => {
      expect(Math.abs(loss / golden[variant].losses[i] - 1), `step ${i}: ${loss}`).toBeLessThan(5e-6);
    });
    optimizer.release();
    model.release();
  });
});
