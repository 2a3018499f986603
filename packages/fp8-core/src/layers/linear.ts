import { Module } from '../module.ts';
import { linear, linearSites } from '../ops/linear.ts';
import { type Init, type ModelContext, Parameter } from '../parameter.ts';
import type { Recipe } from '../recipe.ts';
import type { CastSite } from '../scaling.ts';
import type { Tensor } from '../tensor.ts';

export interface LinearOptions {
  bias?: boolean;
  init?: Init;
}

/** y = x w^T + b with the recipe's three products; weight `name.weight` [out, in], bias `name.bias` [out]. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly recipe: Recipe;
  readonly sites: { x: CastSite; w: CastSite; dy: CastSite } | null;

  constructor(context: ModelContext, name: string, inDim: number, outDim: number, options: LinearOptions = {}) {
    super();
    const { bias = true, init = { std: 0.02 } } = options;
    this.weight = new Parameter(context, `${name}.weight`, [outDim, inDim], 'linear', init);
    this.bias = bias ? new Parameter(context, `${name}.bias`, [outDim], 'vector', { constant: 0 }) : null;
    this.recipe = context.recipe;
    this.sites = linearSites(name, context.recipe, (site, cast) => context.scaling.site(site, cast));
  }

  /** Site at which a producer may cast its output for this layer; null when the recipe has no FP8 products. */
  get inputSite(): CastSite | null {
    return this.sites?.x ?? null;
  }

  /** @param x [..., in] @returns [..., out] */
  forward(x: Tensor): Tensor {
    return linear(x, this);
  }
}
