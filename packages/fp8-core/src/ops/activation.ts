import type { ActDType } from '../dtype.ts';
import { activeWindow, type CastSite } from '../scaling.ts';
import { defineOp } from '../tape.ts';
import { emptyLike, type Tensor } from '../tensor.ts';
import { emptyFor, rowsOf, withLastDim } from './linear.ts';

/** GELU, tanh approximation. @param out site of the layer that reads the result, which is then written in FP8 */
export const gelu = defineOp({
  name: 'gelu',
  forward(context, x: Tensor, out: CastSite | null = null) {
    const y = emptyFor(x.backend, [...x.shape], x.dtype as ActDType, out);
    x.backend.kernels.gelu_forward({ y, x, window: activeWindow(out), n: x.size });
    context.save(x);
    return y;
  },
  backward(context, dy) {
    const [x] = context.saved;
    const dx = emptyLike(x);
    x.backend.kernels.gelu_backward({ dx, dy, x, n: x.size });
    return [dx];
  },
});

/** silu(gate) * up. @param x [..., 2 dim], gate before up @returns [..., dim] */
export const swiglu = defineOp({
  name: 'swiglu',
  forward(context, x: Tensor, out: CastSite | null = null) {
    const width = x.shape.at(-1) as number;
    if (width % 2)
      throw new RangeError(`swiglu: x is [${x.shape}]; its last dim must be even (gate and up side by side)`);
    const dim = width / 2;
    const y = emptyFor(x.backend, withLastDim(x, dim), x.dtype as ActDType, out);
    x.backend.kernels.swiglu_forward({ y, x, window: activeWindow(out), rows: rowsOf(x), dim });
    context.save(x);
    return y;
  },
  backward(context, dy) {
    const [x] = context.saved;
    const dx = emptyLike(x);
    x.backend.kernels.swiglu_backward({ dx, dy, x, rows: rowsOf(x), dim: (x.shape.at(-1) as number) / 2 });
    return [dx];
  },
});
