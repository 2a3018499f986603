import type { Recipe } from '../recipe.ts';
import { bf16 } from './bf16.ts';
import { hybrid } from './formats.ts';

/** FP8 matrix products alone, delayed scaling throughout; all that is stored stays as in `bf16`. */
export const te: Recipe = {
  ...bf16,
  name: 'te',
  summary: 'FP8 matrix products with delayed scaling, states as in bf16 (Transformer Engine)',
  gemm: { ...hybrid, w: { dtype: 'e4m3', scaling: 'delayed' } },
};
