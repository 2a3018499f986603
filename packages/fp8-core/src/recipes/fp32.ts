import type { Recipe } from '../recipe.ts';
import { plain, plainPayloads } from './formats.ts';

/** The yardstick of correctness: nothing is narrower than float32. */
export const fp32: Recipe = {
  name: 'fp32',
  summary: 'everything in float32',
  act: 'f32',
  gemm: 'f32',
  linear: plain,
  embedding: plain,
  vector: plain,
  autoScale: null,
  parallel: plainPayloads,
};
