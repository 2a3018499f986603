import {
  type CastSite,
  type Init,
  linear,
  linearSites,
  type ModelContext,
  Module,
  Parameter,
  type Recipe,
  type Tensor,
} from 'fp8-core';
import type { Group } from '../group.ts';
import { gatherFromTensorModelParallelRegion, scatterToTensorModelParallelRegion } from '../mappings/mappings.ts';
import { evenRanges, type Parallel, shardOver } from './parallel.ts';
import { columnParallelLinear, gathersFp8, type ParallelLinearLayer, rowParallelLinear } from './parallel_linear.ts';

export interface ParallelLinearOptions {
  bias?: boolean;
  init?: Init;
  /** The bias is left out of the output: the caller adds `layer.bias` where it fuses better (`addBias`). */
  skipBiasAdd?: boolean;
}

export interface ColumnParallelOptions extends ParallelLinearOptions {
  /** Sizes of matrices side by side in the outputs (q, k, v), each of which is cut; default one. */
  parts?: readonly number[];
  /** Every rank gets all outputs. */
  gatherOutput?: boolean;
}

export interface RowParallelOptions extends ParallelLinearOptions {
  /** x is this rank's part of the inputs (default); otherwise the whole, and the layer cuts it. */
  inputIsParallel?: boolean;
}

abstract class ParallelLinear extends Module implements ParallelLinearLayer {
  abstract readonly weight: Parameter;
  abstract readonly bias: Parameter | null;
  readonly recipe: Recipe;
  readonly sites: { x: CastSite; w: CastSite; dy: CastSite } | null;
  readonly group: Group;
  readonly sequenceParallel: boolean;
  readonly skipBiasAdd: boolean;

  constructor(context: ModelContext, name: string, parallel: Parallel, skipBiasAdd: boolean) {
    super();
    this.recipe = context.recipe;
    this.sites = linearSites(name, context.recipe, (site, cast) => context.scaling.site(site, cast));
    this.group = parallel.mesh.tp;
    this.sequenceParallel = parallel.sequenceParallel && this.group.size > 1;
    this.skipBiasAdd = skipBiasAdd;
  }

  /** The layer without its bias. */
  protected get withoutBias(): ParallelLinearLayer {
    const { weight, recipe, sites, group, sequenceParallel } = this;
    return { weight, bias: null, recipe, sites, group, sequenceParallel };
  }
}

/**
 * y = x w^T + b with the outputs cut over the tensor group: weight [out / tp, in], bias [out / tp]. With a group of one it is
 * core's linear layer, to the bit.
 */
export class ColumnParallelLinear extends ParallelLinear {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  private readonly gatherOutput: boolean;

  /** @throws UserError if the outputs are not a multiple of the group */
  constructor(
    context: ModelContext,
    name: string,
    inDim: number,
    outDim: number,
    parallel: Parallel,
    options: ColumnParallelOptions = {},
  ) {
    const { bias = true, init = { std: 0.02 }, parts = [outDim], skipBiasAdd = false, gatherOutput = false } = options;
    super(context, name, parallel, skipBiasAdd);
    const { group } = this;
    const ranges = evenRanges(`${name}: outputs`, parts, group);
    const shard = shardOver(group, [outDim, inDim], 0, ranges);
    this.weight = new Parameter(context, `${name}.weight`, [outDim, inDim], 'linear', init, { shard });
    const biasShard = shardOver(group, [outDim], 0, ranges);
    this.bias = bias
      ? new Parameter(context, `${name}.bias`, [outDim], 'vector', { constant: 0 }, { shard: biasShard })
      : null;
    this.gatherOutput = gatherOutput;
  }

  /** Site at which a producer may cast its output for this layer; null where x must stay as it is. */
  get inputSite(): CastSite | null {
    return this.sequenceParallel && !gathersFp8(this) ? null : (this.sites?.x ?? null);
  }

  /**
   * @param x [T, B, in]; [T / tp, B, in] under sequence parallelism
   * @returns [T, B, out / tp], or with `gatherOutput` [T, B, out]
   */
  forward(x: Tensor): Tensor {
    const layer = this.skipBiasAdd ? this.withoutBias : this;
    const y = this.group.size === 1 ? linear(x, layer) : columnParallelLinear(x, layer);
    return this.gatherOutput ? gatherFromTensorModelParallelRegion(y, this.group) : y;
  }
}

/**
 * y = x w^T + b with the inputs cut over the tensor group: weight [out, in / tp], bias [out] on every rank, added once.
 */
export class RowParallelLinear extends ParallelLinear {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  private readonly inputIsParallel: boolean;

  /** @throws UserError if the inputs are not a multiple of the group; RangeError for a whole input with sequence parallelism */
  constructor(
    context: ModelContext,
    name: string,
    inDim: number,
    outDim: number,
    parallel: Parallel,
    options: RowParallelOptions = {},
  ) {
    const { bias = true, init = { std: 0.02 }, skipBiasAdd = false, inputIsParallel = true } = options;
    super(context, name, parallel, skipBiasAdd);
    const { group, sequenceParallel } = this;
    if (sequenceParallel && !inputIsParallel)
      throw new RangeError(`${name}: sequence parallelism needs inputIsParallel`);
    const shard = shardOver(group, [outDim, inDim], 1, evenRanges(`${name}: inputs`, [inDim], group));
    this.weight = new Parameter(context, `${name}.weight`, [outDim, inDim], 'linear', init, { shard });
    const layout = { sumGrad: sequenceParallel };
    this.bias = bias ? new Parameter(context, `${name}.bias`, [outDim], 'vector', { constant: 0 }, layout) : null;
    this.inputIsParallel = inputIsParallel;
  }

  /** Site at which a producer may cast its output for this layer. */
  get inputSite(): CastSite | null {
    return this.sites?.x ?? null;
  }

  /**
   * @param x [T, B, in / tp], or with `inputIsParallel: false` [T, B, in]
   * @returns [T, B, out]; [T / tp, B, out] under sequence parallelism
   */
  forward(x: Tensor): Tensor {
    if (this.group.size === 1) return linear(x, this.skipBiasAdd ? this.withoutBias : this);
    const part = this.inputIsParallel ? x : scatterToTensorModelParallelRegion(x, this.group);
    return rowParallelLinear(part, this, !this.skipBiasAdd);
  }
}
