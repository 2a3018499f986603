import type { Recipe } from '../recipe.ts';
import { autoScale, hybrid, plain, plainPayloads } from './formats.ts';

/** FP8-LM level 1: FP8 products, FP8 gradients, scaled FP16 weights. */
export const o1: Recipe = {
  name: 'o1',
  summary: 'FP8 products and gradients, scaled FP16 weights (FP8-LM O1)',
  act: 'bf16',
  gemm: hybrid,
  linear: { weight: 'f16', master: null, grad: 'e4m3', gradPayload: 'e4m3', m: 'f32', v: 'f32' },
  embedding: { ...plain, gradPayload: 'bf16' },
  vector: plain,
  autoScale,
  parallel: plainPayloads,
};
