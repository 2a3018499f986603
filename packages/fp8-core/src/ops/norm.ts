import type { ActDType } from '../dtype.ts';
import type { Parameter } from '../parameter.ts';
import { activeWindow, type CastSite } from '../scaling.ts';
import { defineOp } from '../tape.ts';
import { empty, emptyLike, type Tensor } from '../tensor.ts';
import { emptyFor, rowsOf } from './linear.ts';

/** What the norm ops need of a layer; weight and bias are float32 [dim]. */
export interface NormLayer {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly eps: number;
}

/**
 * Layer normalisation over the last dim, the moments in float32.
 * @param x [..., dim]
 * @param out site of the linear layer that reads the result: the norm then writes FP8 itself, without a pass of its own
 */
export const layerNorm = defineOp({
  name: 'layerNorm',
  forward(context, x: Tensor, layer: NormLayer, out: CastSite | null = null) {
    const rows = rowsOf(x);
    const dim = x.shape.at(-1) as number;
    const y = emptyFor(x.backend, [...x.shape], x.dtype as ActDType, out);
    const stats = empty(x.backend, [rows, 2], 'f32');
    x.backend.kernels.layer_norm_forward({
      y,
      stats,
      x,
      weight: layer.weight.data,
      bias: layer.bias?.data,
      window: activeWindow(out),
      rows,
      dim,
      eps: layer.eps,
    });
    context.save(x, stats);
    context.state = layer;
    return y;
  },
  backward(context, dy) {
    const layer = context.state as NormLayer;
    const [x, stats] = context.saved;
    const dx = emptyLike(x);
    x.backend.kernels.layer_norm_backward({
      dx,
      dweight: layer.weight.gradForAdding(),
      dbias: layer.bias?.gradForAdding(),
      dy,
      x,
      weight: layer.weight.data,
      stats,
      residual: context.takePending(0),
      rows: rowsOf(x),
      dim: x.shape.at(-1) as number,
    });
    return [dx];
  },
});

/** Root-mean-square normalisation over the last dim; see `layerNorm`. */
export const rmsNorm = defineOp({
  name: 'rmsNorm',
  forward(context, x: Tensor, layer: NormLayer, out: CastSite | null = null) {
    const rows = rowsOf(x);
    const y = emptyFor(x.backend, [...x.shape], x.dtype as ActDType, out);
    const stats = empty(x.backend, [rows], 'f32');
    x.backend.kernels.rms_norm_forward({
      y,
      stats,
      x,
      weight: layer.weight.data,
      window: activeWindow(out),
      rows,
      dim: x.shape.at(-1) as number,
      eps: layer.eps,
    });
    context.save(x, stats);
    context.state = layer;
    return y;
  },
  backward(context, dy) {
    const layer = context.state as NormLayer;
    const [x, stats] = context.saved;
    const dx = emptyLike(x);
    x.backend.kernels.rms_norm_backward({
      dx,
      dweight: layer.weight.gradForAdding(),
      dy,
      x,
      weight: layer.weight.data,
      stats,
      residual: context.takePending(0),
      rows: rowsOf(x),
      dim: x.shape.at(-1) as number,
    });
    return [dx];
  },
});
