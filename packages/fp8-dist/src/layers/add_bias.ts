import { defineOp, emptyLike, empty, type Parameter, type Tensor } from 'fp8-core';

/** x + bias over the last dim, for layers with `skipBiasAdd`. @param bias f32 [dim] */
export const addBias = defineOp({
  name: 'addBias',
  forward(context, x: Tensor, bias: Parameter) {
    const { backend } = x;
    const y = emptyLike(x);
    const m = x.size / bias.size;
    const ones = empty(backend, [m], 'f32');
    backend.kernels.fill({ y: ones, n: m, value: 1 });
    backend.copy(y.handle, x.handle);
    // A product with a column of ones: y += 1 bias^T.
    const product = { m, n: bias.size, k: 1, trans_a: 0, trans_b: 0, accumulate: 1, compute_f32: 1, alpha: 1 };
    backend.kernels.gemm({ c: y, a: ones, b: bias.data, ...product });
    context.state = bias;
    return y;
  },
  backward(context, dy) {
    const bias = context.state as Parameter;
    const dim = bias.size;
    dy.backend.kernels.column_sums({ y: bias.gradForAdding(), x: dy, rows: dy.size / dim, dim });
    return [dy];
  },
});
