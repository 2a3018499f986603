import { defineOp } from '../tape.ts';
import { emptyLike, type Tensor } from '../tensor.ts';

/** Where a dropout draws its mask from: element i of `stream` under `seed`, so that any layout and any recomputation agree. */
export interface DropoutMask {
  /** Share of elements dropped, in [0, 1). */
  rate: number;
  seed: number;
  stream: number;
  /** Index of the tensor's first element in the stream. */
  offset: number;
}

/** residual + mask * x / (1 - rate). Gradients flow to both. */
export const dropoutAdd = defineOp({
  name: 'dropoutAdd',
  forward(context, x: Tensor, residual: Tensor, mask: DropoutMask) {
    if (!(mask.rate >= 0 && mask.rate < 1)) throw new RangeError(`dropout: rate ${mask.rate}; need 0 <= rate < 1`);
    const y = emptyLike(x);
    x.backend.kernels.dropout({ y, x, residual, n: x.size, ...mask });
    context.state = mask;
    return y;
  },
  backward(context, dy) {
    const mask = context.state as DropoutMask;
    const dx = emptyLike(dy);
    dy.backend.kernels.dropout({ y: dx, x: dy, n: dy.size, ...mask });
    return [dx, dy];
  },
});

/** mask * x / (1 - rate). */
export const dropout = defineOp({
  name: 'dropout',
  forward(context, x: Tensor, mask: DropoutMask) {
    if (!(mask.rate >= 0 && mask.rate < 1)) throw new RangeError(`dropout: rate ${mask.rate}; need 0 <= rate < 1`);
    const y = emptyLike(x);
    x.backend.kernels.dropout({ y, x, n: x.size, ...mask });
    context.state = mask;
    return y;
  },
  backward(context, dy) {
    const dx = emptyLike(dy);
    dy.backend.kernels.dropout({ y: dx, x: dy, n: dy.size, ...(context.state as DropoutMask) });
    return [dx];
  },
});
