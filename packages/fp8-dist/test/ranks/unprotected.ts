// Positive controls: takes a protection away from a rank, so that a fault test can show that it would notice. Loaded into the comm
// worker by FP8_TEST_PRELOAD (only where it runs from sources); FP8_TEST_OFF names what goes.
import { Engine } from '../../src/engine/engine.ts';
import { Link } from '../../src/link/link.ts';
import { Liveness } from '../../src/worker/liveness.ts';

type Methods = Record<string, (...args: never[]) => unknown>;
const off = (of: { prototype: unknown }, ...names: string[]): void => {
  const methods = of.prototype as Methods;
  for (const name of names) {
    if (!(name in methods)) throw new Error(`unprotected: no method ${name}`);
    methods[name] = () => undefined;
  }
};

const protections: Record<string, () => void> = {
  /** Nobody watches the others. */
  liveness: () => off(Liveness, 'check', 'abort'),
  /** Collectives wait for ever. */
  deadlines: () => off(Engine, 'expired', 'expire'),
  /** Nobody compares what ranks call. */
  agreement() {
    off(Engine, 'compare');
    off(Liveness, 'findDeadlock');
  },
  /** Frames that a cut connection lost stay lost. */
  repeats: () => off(Link, 'repeat'),
};
protections[process.env.FP8_TEST_OFF ?? '']?.();
