import { Module } from '../module.ts';
import { layerNorm, rmsNorm } from '../ops/norm.ts';
import { type ModelContext, Parameter } from '../parameter.ts';
import type { CastSite } from '../scaling.ts';
import type { Tensor } from '../tensor.ts';

export interface NormOptions {
  bias?: boolean;
  eps?: number;
  /** The norm sees a part of the sequence only; see `ParameterLayout`. */
  sumGrad?: boolean;
}

/** Layer norm; weight and bias stay in float32 in every recipe. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly eps: number;

  constructor(context: ModelContext, name: string, dim: number, options: NormOptions = {}) {
    super();
    const { bias = true, eps = 1e-5, sumGrad } = options;
    this.weight = new Parameter(context, `${name}.weight`, [dim], 'vector', { constant: 1 }, { sumGrad });
    this.bias = bias ? new Parameter(context, `${name}.bias`, [dim], 'vector', { constant: 0 }, { sumGrad }) : null;
    this.eps = eps;
  }

  /** @param out site of the layer that reads the result; the norm then writes FP8 */
  forward(x: Tensor, out: CastSite | null = null): Tensor {
    return layerNorm(x, this, out);
  }
}

/** Root-mean-square norm. */
export class RmsNorm extends Module {
  readonly weight: Parameter;
  readonly bias = null;
  readonly eps: number;

  constructor(context: ModelContext, name: string, dim: number, { eps = 1e-5, sumGrad }: NormOptions = {}) {
    super();
    this.weight = new Parameter(context, `${name}.weight`, [dim], 'vector', { constant: 1 }, { sumGrad });
    this.eps = eps;
  }

  forward(x: Tensor, out: CastSite | null = null): Tensor {
    return rmsNorm(x, this, out);
  }
}
