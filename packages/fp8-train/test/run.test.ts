// Whole runs of a tiny model: resume to the bit, determinism, memory that does not grow, skipped steps, and a table of losses
// by recipe. On the CPU backend where it is built, else on the reference.
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { empty, ledger, modelContext, type Parameter, recipeNamed, recipes, scope } from 'fp8-core';
import { Gpt, type GptConfig, presets } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor, type RunConfig, type RunEvent, randomTokens, runTraining, Sampler, Trainer } from 'fp8-train';
import { afterAll, describe, expect, test } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'fp8lm-run-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tiny: GptConfig = {
  ...presets['gpt-nano'],
  vocabSize: 260,
  maxSeqLen: 24,
  numLayers: 2,
  numHeads: 2,
  numKvHeads: 1,
  hiddenSize: 32,
  ffnSize: 64,
  dropout: 0.1,
};

const textFile = join(folder, 'text.txt');
writeFileSync(
  textFile,
  'The quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs.\n'.repeat(200),
);

const base: Partial<RunConfig> = {
  model: tiny,
  data: textFile,
  tokenizer: 'byte',
  batch: 3,
  gradAccum: 2,
  evalBatches: 2,
  lr: 5e-3,
  warmupSteps: 2,
  evalEvery: 0,
};

async function losses(config: Partial<RunConfig>): Promise<{ steps: Map<number, number>; valLoss: number | null }> {
  const steps = new Map<number, number>();
  const summary = await runTraining({ ...base, ...config }, (e: RunEvent) => {
    if (e.type === 'step') steps.set(e.step, e.loss);
  });
  return { steps, valLoss: summary.valLoss };
}

describe.each(Object.keys(recipes))('recipe %s', (recipe) => {
  test('resumed runs have the bits of one that never stopped, inside and after the warm-up of the windows', async () => {
    const whole = await losses({ recipe, steps: 22 });
    for (const stop of [5, 19]) {
      const out = join(folder, `${recipe}-${stop}`);
      const stopper = new AbortController();
      await runTraining(
        { ...base, recipe, steps: 22, out },
        (e) => e.type === 'step' && e.step === stop && stopper.abort(),
        stopper.signal,
      );
      const rest = await losses({ recipe, steps: 22, out, resume: true });
      expect([...rest.steps.keys()][0]).toBe(stop + 1);
      for (const [step, loss] of rest.steps) expect(loss, `step ${step}`).toBe(whole.steps.get(step));
      expect(rest.valLoss).toBe(whole.valLoss);
    }
  });

  test('learns: the loss falls by a third, and follows float32 within 3 %', async () => {
    const run = await losses({ recipe, steps: 40 });
    const reference = await losses({ recipe: 'fp32', steps: 40 });
    expect(run.steps.get(40)).toBeLessThan((run.steps.get(1) as number) * 0.67);
    expect(Math.abs((run.valLoss as number) / (reference.valLoss as number) - 1)).toBeLessThan(0.03);
  });
});

function makeTrainer(recipe: string, config = tiny) {
  const backend = backendFor('auto');
  const model = new Gpt(modelContext(backend, recipeNamed(recipe), 3), config);
  const optimizer = new AdamW(model.parameters());
  const trainer = new Trainer(model, optimizer, { batch: 2, seq: 24 });
  const sampler = new Sampler(randomTokens(260, 1), { seqLen: 24 });
  const release = () => {
    optimizer.release();
    model.release();
    model.context.scaling.release();
  };
  return { backend, model, optimizer, trainer, step: () => trainer.step(() => sampler.nextBatch(2), 1e-3), release };
}

test.each(Object.keys(recipes))('%s: live bytes are the same after step 3 and step 40', (recipe) => {
  const { backend, step, release } = makeTrainer(recipe);
  for (let i = 0; i < 3; i++) step();
  const early = { ledger: { ...ledger.live }, backend: backend.memory().live };
  for (let i = 3; i < 40; i++) step();
  expect({ ledger: { ...ledger.live }, backend: backend.memory().live }).toEqual(early);
  release();
});

test('a released model gives every byte back', () => {
  const before = ledger.total();
  const { step, release } = makeTrainer('o3');
  step();
  release();
  expect(ledger.total()).toBe(before);
});

test('recomputation changes no bit', () => {
  const runs = [false, true].map((recompute) => {
    const { model, optimizer, release } = makeTrainer('o2');
    const trainer = new Trainer(model, optimizer, { batch: 2, seq: 24, recompute });
    const sampler = new Sampler(randomTokens(260, 1), { seqLen: 24 });
    const result = Array.from({ length: 20 }, () => trainer.step(() => sampler.nextBatch(2), 1e-3)).map((s) => [
      s.loss,
      s.gradNorm,
    ]);
    release();
    return result;
  });
  expect(runs[1]).toEqual(runs[0]);
});

test.each(['bf16', 'o2', 'o3'])('%s: a non-finite gradient skips the step and changes no state', (recipe) => {
  const { backend, model, optimizer, step, release } = makeTrainer(recipe);
  for (let i = 0; i < 3; i++) step();
  const bias = model.parameters().find((p) => p.name === 'h.0.mlp.fc.bias') as Parameter;
  const good = bytesOf(bias.data);
  scope(() => {
    const bad = empty(backend, [...bias.shape], 'f32');
    backend.kernels.fill({ y: bad, n: bias.size, value: Number.NaN });
    bias.assign(bad);
  });
  const stateOf = () =>
    optimizer.parameters
      .filter((p) => p !== bias)
      .flatMap((p) => {
        const { m = null, v = null } = optimizer.moments.get(p) ?? {};
        return [p.data, p.master, p.mu, m, v];
      })
      .concat([...model.context.scaling.windows.values()])
      .filter((t) => t !== null)
      .map((t) => Buffer.from(bytesOf(t)).toString('hex'));
  const before = stateOf();
  const result = step();
  expect(result.skipped).toBe(true);
  expect(stateOf()).toEqual(before);
  backend.write(bias.data.handle, good);
  expect(step().skipped).toBe(false);
  expect(optimizer.stepsTaken).toBe(4);
  release();
});

function bytesOf(t: {
  numBytes: number;
  handle: number;
  backend: { read(handle: number, into: Uint8Array): void };
}): Uint8Array {
  const bytes = new Uint8Array(t.numBytes);
  t.backend.read(t.handle, bytes);
  return bytes;
}

test('a checkpoint of another recipe or model is refused by name', async () => {
  const out = join(folder, 'refuse');
  await runTraining({ ...base, recipe: 'o2', steps: 2, out });
  await expect(runTraining({ ...base, recipe: 'bf16', steps: 4, out, resume: true })).rejects.toThrow(
    /trained with recipe o2, not bf16/,
  );
  await expect(
    runTraining({ ...base, model: { ...tiny, hiddenSize: 64 }, recipe: 'o2', steps: 4, out, resume: true }),
  ).rejects.toThrow(/wte.weight/);
  expect(readdirSync(out).filter((f) => f.includes('tmp'))).toEqual([]);
});
