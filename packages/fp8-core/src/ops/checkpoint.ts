import { defineOp, record, type Run, withoutTape } from '../tape.ts';
import type { Tensor } from '../tensor.ts';

/**
 * Activation recomputation: runs `fn(x)` without keeping what its ops save, and runs it again in backward.
 * `fn` must be a pure function of x and of parameters; dropout and delayed scaling repeat themselves by construction.
 * @see Chen et al. 2016 (arXiv:1604.06174)
 */
export const checkpoint = defineOp({
  name: 'checkpoint',
  forward(context, x: Tensor, fn: (x: Tensor) => Tensor) {
    context.save(x);
    context.state = fn;
    return withoutTape(() => fn(x));
  },
  backward(context, dy) {
    const [x] = context.saved;
    const run: Run = record(() => (context.state as (x: Tensor) => Tensor)(x), [x]);
    return run.backward(dy);
  },
});
