import type { Recipe } from '../recipe.ts';
import { plainPayloads } from './formats.ts';
import { o2 } from './o2.ts';

/** FP8-LM level 3: level 2 with FP8 compute weights, a scaled FP16 master, and FP8 payloads between parallel layers. */
export const o3: Recipe = {
  ...o2,
  name: 'o3',
  summary: 'O2 with e4m3 weights over a scaled FP16 master, FP8 payloads (FP8-LM O3)',
  linear: { weight: 'e4m3', master: 'f16', grad: 'e4m3', gradPayload: 'e4m3', m: 'e4m3', v: 'f16' },
  parallel: { ...plainPayloads, input: 'fp8', regather: false },
};
