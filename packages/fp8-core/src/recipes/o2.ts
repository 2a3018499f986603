import type { Recipe } from '../recipe.ts';
import { plainWithSmallMoments } from './formats.ts';
import { o1 } from './o1.ts';

/** FP8-LM level 2: level 1 with FP8 and FP16 optimizer states; 6 bytes a parameter of the linear layers. */
export const o2: Recipe = {
  ...o1,
  name: 'o2',
  summary: 'O1 with e4m3 first and scaled FP16 second moments (FP8-LM O2)',
  linear: { weight: 'f16', master: null, grad: 'e4m3', gradPayload: 'e4m3', m: 'e4m3', v: 'f16' },
  embedding: { ...plainWithSmallMoments, gradPayload: 'bf16' },
};
