import { UserError } from '../errors.ts';
import type { Recipe } from '../recipe.ts';
import { bf16 } from './bf16.ts';
import { fp32 } from './fp32.ts';
import { o1 } from './o1.ts';
import { o2 } from './o2.ts';
import { o3 } from './o3.ts';
import { te } from './te.ts';

export { payloadSets, type PayloadSet } from './formats.ts';

export const recipes: Readonly<Record<string, Recipe>> = { fp32, bf16, te, o1, o2, o3 };

/** @throws UserError if there is no recipe of that name */
export function recipeNamed(name: string): Recipe {
  const recipe = Object.hasOwn(recipes, name) ? recipes[name] : undefined;
  if (!recipe) throw new UserError(`recipe "${name}" is unknown; there are ${Object.keys(recipes).join(', ')}`);
  return recipe;
}
