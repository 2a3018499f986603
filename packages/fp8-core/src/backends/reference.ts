import type { Backend } from '../backend.ts';
import type { CellKernels } from './check.ts';
import { hostBackend } from './host-backend.ts';
import * as attention from './reference/attention.ts';
import * as casts from './reference/casts.ts';
import * as elementwise from './reference/elementwise.ts';
import * as embedding from './reference/embedding.ts';
import * as loss from './reference/loss.ts';
import * as matmul from './reference/matmul.ts';
import * as norms from './reference/norms.ts';
import * as optimizer from './reference/optimizer.ts';

const kernels: CellKernels = {
  ...casts,
  ...elementwise,
  ...norms,
  ...matmul,
  ...attention,
  ...embedding,
  ...loss,
  ...optimizer,
};

/**
 * The reference backend: slow, obvious TypeScript that runs wherever JavaScript does, and the oracle of the native backends.
 * Bit-exact kernels round after every float32 operation; the others compute in float64 and round once at the end.
 */
export const referenceBackend = (): Backend => hostBackend('ref', 'ref (TypeScript, one thread)', kernels);
