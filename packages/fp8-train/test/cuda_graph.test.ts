// CUDA graphs over the training step, as far as the simulated device can tell: captured work runs only when its graph is
// launched, so equal bits prove that nothing in a step waits for the host, and the counts that one graph serves many steps.
import { type RunEvent, runTraining } from 'fp8-train';
import { describe, expect, test } from 'vitest';
import type { CudaBackend } from '../../cuda-backend/src/backend.ts';
import { simulator } from '../../cuda-backend/test/simulator.ts';

const { cuda, reason } = simulator();

async function losses(): Promise<number[]> {
  const out: number[] = [];
  await runTraining(
    {
      model: {
        vocabSize: 260,
        maxSeqLen: 16,
        numLayers: 8, // several graphs a step
        numHeads: 2,
        numKvHeads: 1,
        hiddenSize: 32,
        ffnSize: 64,
        position: 'rope',
        ropeTheta: 10000,
        norm: 'rms',
        activation: 'swiglu',
        bias: false,
        tied: true,
        dropout: 0,
        normEps: 1e-5,
      },
      recipe: 'o3',
      device: 'cuda',
      data: 'random',
      steps: 5,
      batch: 2,
      lr: 1e-3,
      evalBatches: 1,
    },
    (e: RunEvent) => {
      if (e.type === 'step') out.push(e.loss);
    },
  );
  return out;
}

describe.skipIf(!cuda)(`CUDA graphs on the simulated device ${reason}`, () => {
  test('a step in graphs has the bits of one without; graphs are made once and take new arguments after', async () => {
    const backend = cuda as CudaBackend;
    const plain = await losses();
    const before = backend.graphs();
    expect(before.launches).toBe(0);
    backend.useGraphs(true);
    try {
      expect(await losses()).toEqual(plain);
    } finally {
      backend.useGraphs(false);
    }
    const { launches, updates, instantiations } = backend.graphs();
    expect(launches).toBe(updates + instantiations);
    expect(updates, `${launches} launches, ${instantiations} graphs made`).toBeGreaterThan(instantiations / 2);
  });
});
