import type { AutoScale, Fp8Gemm, ParallelPayloads, ParamFormat } from '../recipe.ts';

/** Everything in float32: 16 bytes a parameter. */
export const plain: ParamFormat = { weight: 'f32', master: null, grad: 'f32', gradPayload: 'f32', m: 'f32', v: 'f32' };

/** Float32 with the moments of FP8-LM: 11 bytes; what O2 and O3 use for embeddings, head, norms and biases. */
export const plainWithSmallMoments: ParamFormat = { ...plain, m: 'e4m3', v: 'f16' };

/** FP8-LM's hybrid: e4m3 forward, e5m2 for the gradient of the output; windows for what changes step by step. */
export const hybrid: Fp8Gemm = {
  x: { dtype: 'e4m3', scaling: 'delayed' },
  w: { dtype: 'e4m3', scaling: 'current' },
  dy: { dtype: 'e5m2', scaling: 'delayed' },
};

/** FP8-LM section 2.1: halve above 0.001 % saturated, else double in 1,000 steps. */
export const autoScale: AutoScale = { threshold: 1e-5, growth: 2 ** (1 / 1000) };

/** All payloads in the activations' dtype. */
export const plainPayloads: ParallelPayloads = {
  input: 'act',
  regather: true,
  outputGrad: 'act',
  output: 'act',
  inputGrad: 'act',
};

/** Sets of payloads by name, for runs that want others than their recipe's. */
export const payloadSets = {
  /** Nothing in FP8. */
  act: plainPayloads,
  /** As FP8-LM's authors do: layer inputs, which backward gathers again. */
  paper: { ...plainPayloads, input: 'fp8' },
  /** Everything that can be. */
  all: { input: 'fp8', regather: false, outputGrad: 'fp8', output: 'fp8', inputGrad: 'fp8' },
} as const satisfies Record<string, ParallelPayloads>;
export type PayloadSet = keyof typeof payloadSets;
