import { defineOp } from '../tape.ts';
import { emptyLike, type Tensor } from '../tensor.ts';

/** a + b of equal shapes. */
export const add = defineOp({
  name: 'add',
  forward(_context, a: Tensor, b: Tensor) {
    if (a.size !== b.size) throw new RangeError(`add: [${a.shape}] and [${b.shape}] differ`);
    const y = emptyLike(a);
    a.backend.kernels.add({ y, a, b, n: a.size });
    return y;
  },
  backward(_context, dy) {
    return [dy, dy];
  },
});
