import {
  empty,
  ledger,
  modelContext,
  type Parameter,
  record,
  recipeNamed,
  referenceBackend,
  scope,
  type Tensor,
  UserError,
} from 'fp8-core';
import { describe, expect, it } from 'vitest';
import { type GptConfig, presets } from './config.ts';
import { Gpt, type Recompute } from './gpt.ts';
import { balancedLayers, pipelineParts } from './parts.ts';

const tiny: GptConfig = {
  ...presets['gpt-nano'],
  vocabSize: 32,
  maxSeqLen: 8,
  numLayers: 3,
  numHeads: 2,
  numKvHeads: 2,
  hiddenSize: 16,
  ffnSize: 32,
  dropout: 0.1,
};
const [seq, batch] = [8, 2];
const backend = referenceBackend();

function ids(shift: number): Tensor {
  const t = empty(backend, [seq, batch], 'i32');
  const values = Int32Array.from({ length: seq * batch }, (_, i) => (i * 7 + shift) % tiny.vocabSize);
  backend.write(t.handle, new Uint8Array(values.buffer));
  return t;
}

function floats(t: Tensor): number[] {
  return scope(() => {
    const y = empty(backend, t.shape, 'f32');
    backend.kernels.cast({ y, x: t, n: t.size, random: 0 });
    const values = new Float32Array(t.size);
    backend.read(y.handle, new Uint8Array(values.buffer));
    return [...values];
  });
}

/** Loss and gradients of the model in parts, one after the other; a tied copy's gradient is under a name of its own. */
function train(layout: readonly number[], recipe: string, recompute: boolean | Recompute = false, config = tiny) {
  return scope(() => {
    const context = modelContext(backend, recipeNamed(recipe), 5);
    const parts = pipelineParts(config, layout.length, layout).map((part) => new Gpt(context, config, part));
    const before = ledger.live.activations;
    ledger.resetPeak();
    const options = { recompute, dropoutKey: 3 };
    const inputs: Tensor[] = [ids(0)];
    const runs = parts.map((part, i) => {
      const x = inputs[i];
      const answers = part.part.last ? { targets: ids(1), numTargets: seq * batch } : null;
      const run = record(() => part.forwardPart(x, answers, options), i ? [x] : []);
      inputs.push(run.output);
      return run;
    });
    const [loss] = floats(runs[runs.length - 1].output);
    const kept = ledger.live.activations - before;
    let dy: Tensor | null = null;
    for (const run of runs.toReversed()) dy = run.backward(dy)[0] ?? null;
    const gradients = new Map<string, number[]>();
    for (const [i, part] of parts.entries()) {
      for (const p of part.parameters()) {
        const name = gradients.has(p.name) ? `${p.name} of part ${i}` : p.name;
        gradients.set(name, floats((p as Parameter).grad as Tensor));
      }
      part.release();
    }
    context.scaling.release();
    return { loss, gradients, kept };
  });
}

describe('a model in parts', () => {
  const untied = { ...tiny, tied: false };

  it.each(['fp32', 'o2', 'o3'])('gives the bits of the whole in %s', (recipe) => {
    const whole = train([3], recipe, false, untied);
    for (const layout of [
      [1, 2],
      [2, 1],
      [1, 1, 1],
      [0, 2, 1],
      [3, 0],
    ]) {
      const parts = train(layout, recipe, false, untied);
      expect(parts.loss, `${layout}`).toBe(whole.loss);
      expect(parts.gradients, `${layout}`).toEqual(whole.gradients);
    }
  });

  it('shares a tied embedding between the first and the last', () => {
    const whole = train([3], 'fp32');
    const parts = train([1, 2], 'fp32');
    expect(parts.loss).toBe(whole.loss);
    const [a, b] = [parts.gradients.get('wte.weight'), parts.gradients.get('wte.weight of part 1')] as number[][];
    const want = whole.gradients.get('wte.weight') as number[];
    const most = Math.max(...want.map(Math.abs));
    want.forEach((g, i) => expect(Math.abs(a[i] + b[i] - g)).toBeLessThan(1e-6 * most));
  });

  it.each(['fp32', 'o2'])('gives the same bits however much is recomputed in %s, and keeps less', (recipe) => {
    const keep = train([3], recipe);
    const kept = (['attention', 'mlp', 'full'] as const).map((what) => {
      const again = train([3], recipe, what);
      expect(again.loss, what).toBe(keep.loss);
      expect(again.gradients, what).toEqual(keep.gradients);
      return again.kept;
    });
    expect(train([3], recipe, true).kept).toBe(kept[2]);
    for (const half of kept.slice(0, 2)) {
      expect(half).toBeLessThan(keep.kept);
      expect(half).toBeGreaterThan(kept[2]);
    }
  });
});

describe('layers of the places', () => {
  it('are as even as the head allows', () => {
    expect(balancedLayers(presets['gpt-12m'], 2)).toEqual([3, 3]);
    expect(balancedLayers(presets['gpt2-1.5b'], 4)).toEqual([12, 13, 13, 10]);
    // The head of gpt2-124m does the work of 5.5 of its layers.
    expect(balancedLayers(presets['gpt2-124m'], 2)).toEqual([9, 3]);
    expect(balancedLayers(presets['gpt2-124m'], 4)).toEqual([3, 4, 4, 1]);
    expect(balancedLayers(presets['gpt-nano'], 4)).toEqual([1, 1, 1, 1]);
    expect(balancedLayers(presets['gpt-nano'], 1)).toEqual([4]);
  });

  it('are refused with the numbers where they do not fit', () => {
    const c = presets['gpt-nano'];
    expect(() => pipelineParts(c, 8)).toThrow(UserError);
    expect(() => pipelineParts(c, 8)).toThrow(/4 layers on 8 places/);
    expect(() => pipelineParts(c, 2, [1, 2])).toThrow(/\[1,2\] has 3 layers on 2 places; need 4 layers on 2 places/);
    expect(() => pipelineParts(c, 3, [2, 0, 2])).toThrow(/at least one on each between/);
    expect(pipelineParts(c, 3, [0, 3, 1]).map((p) => p.layers)).toEqual([
      [0, 0],
      [0, 3],
      [3, 4],
    ]);
  });
});
