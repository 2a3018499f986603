// Linear layers cut over the tensor group, with their communication run under their products.
//
//   column   W is cut by rows (outputs). Forward: gather x if the sequence is cut. Backward: the re-gather of x runs under
//            dx = dy W, the sum of dx over the ranks under dW = dy^T x.
//   row      W is cut by columns (inputs). Forward: the ranks' outputs are summed (and cut along the sequence). Backward: dy is
//            gathered if the sequence is cut; both products need all of it.
//
// What backward needs of the gathered x, it gathers again, or with `regather: false` keeps from forward.
//
// FP8 payloads: x is cast at the layer's site before the gather (FP8-LM, figure 4), so what travels is what the product reads
// and one rank would have the same bits, as the windows are the same on all ranks; while they warm up, scales differ and the
// gather brings the parts to the smallest.
import {
  accumulateProduct,
  atSite,
  computeF32,
  defineOp,
  gradientForProducts,
  type LinearLayer,
  multiplyByWeight,
  multiplyGradientByWeight,
  saveInput,
  type Tensor,
} from 'fp8-core';
import type { Group } from '../group.ts';
import { allReduceSum, gatherRows, reduceScatterRows } from '../mappings/collect.ts';

/** A linear layer whose weight is a part. */
export interface ParallelLinearLayer extends LinearLayer {
  readonly group: Group;
  readonly sequenceParallel: boolean;
}

/** True if x is to be cast before it is gathered. */
export const gathersFp8 = (layer: ParallelLinearLayer): boolean =>
  layer.sites !== null && layer.recipe.parallel.input === 'fp8';

/**
 * y = x w^T + b for this rank's outputs.
 * @param x [T, B, in]; [T / tp, B, in] under sequence parallelism
 * @returns [T, B, out / tp]
 */
export const columnParallelLinear = defineOp({
  name: 'columnParallelLinear',
  forward(context, x: Tensor, layer: ParallelLinearLayer) {
    const { group, sites, sequenceParallel } = layer;
    context.state = layer;
    if (!sequenceParallel) {
      const a = atSite(x, sites?.x);
      saveInput(context, x, a);
      return multiplyByWeight(a, layer, layer.bias);
    }
    const part = gathersFp8(layer) ? atSite(x, sites?.x) : x;
    const a = atSite(gatherRows(part, group).wait(), sites?.x);
    context.save(layer.recipe.parallel.regather ? part : a);
    return multiplyByWeight(a, layer, layer.bias);
  },
  backward(context, dy) {
    const layer = context.state as ParallelLinearLayer;
    const { group, sites, sequenceParallel, recipe } = layer;
    const [saved] = context.saved;
    const gathering = sequenceParallel && recipe.parallel.regather ? gatherRows(saved, group) : null;
    const g = gradientForProducts(dy, layer);
    let summing = null;
    if (context.wants[0]) {
      const part = multiplyGradientByWeight(g, layer);
      const { inputGrad } = recipe.parallel;
      summing = sequenceParallel ? reduceScatterRows(part, group, inputGrad) : allReduceSum(part, group, inputGrad);
    }
    const a = atSite(gathering?.wait() ?? saved, sites?.x);
    accumulateProduct(layer.weight, g, a, dy.size / layer.weight.shape[0], computeF32(recipe));
    return [summing?.wait() ?? null];
  },
});

/**
 * y = sum over the ranks of x w^T, + b.
 * @param x [T, B, in / tp]
 * @param addBias whether the layer's bias is added
 * @returns [T, B, out]; [T / tp, B, out] under sequence parallelism
 */
export const rowParallelLinear = defineOp({
  name: 'rowParallelLinear',
  forward(context, x: Tensor, layer: ParallelLinearLayer, addBias: boolean = true) {
    const { group, sites, sequenceParallel } = layer;
    const a = atSite(x, sites?.x);
    saveInput(context, x, a);
    context.state = { layer, addBias };
    // In one rank's product the bias costs no pass of its own.
    const part = multiplyByWeight(a, layer, addBias && group.rank === 0 ? layer.bias : null);
    const { output } = layer.recipe.parallel;
    return (sequenceParallel ? reduceScatterRows(part, group, output) : allReduceSum(part, group, output)).wait();
  },
  backward(context, dy) {
    const { layer, addBias } = context.state as { layer: ParallelLinearLayer; addBias: boolean };
    const [input] = context.saved;
    const bias = addBias ? layer.bias : null;
    const g = layer.sequenceParallel ? gatheredGradient(dy, layer, bias) : gradientForProducts(dy, layer, bias);
    const dx = context.wants[0] ? multiplyGradientByWeight(g, layer) : null;
    const a = atSite(input, layer.sites?.x);
    accumulateProduct(layer.weight, g, a, g.size / layer.weight.shape[0], computeF32(layer.recipe));
    return [dx];
  },
});

/** dy [T / tp, B, out] of all ranks as the products read it; the bias gradient is this rank's part's. */
function gatheredGradient(dy: Tensor, layer: ParallelLinearLayer, bias: LinearLayer['bias']): Tensor {
  if (!layer.sites || layer.recipe.parallel.outputGrad === 'fp8')
    return gatherRows(gradientForProducts(dy, layer, bias), layer.group).wait();
  const gathering = gatherRows(dy, layer.group);
  if (bias) {
    const [dim] = layer.weight.shape;
    dy.backend.kernels.column_sums({ y: bias.gradForAdding(), x: dy, rows: dy.size / dim, dim });
  }
  return gradientForProducts(gathering.wait(), layer, null);
}
