import type { ParamFormat, Recipe } from '../recipe.ts';
import { plain, plainPayloads } from './formats.ts';

/** Mixed precision as Megatron-LM does it: 18 bytes a parameter. */
const mixed: ParamFormat = { weight: 'bf16', master: 'f32', grad: 'f32', gradPayload: 'f32', m: 'f32', v: 'f32' };

/** The baseline that FP8 is measured against. */
export const bf16: Recipe = {
  name: 'bf16',
  summary: 'BF16 arithmetic with float32 masters, gradients and moments (Megatron-LM)',
  act: 'bf16',
  gemm: 'bf16',
  linear: mixed,
  embedding: mixed,
  vector: plain,
  autoScale: null,
  parallel: plainPayloads,
};
