// Time of device work: many calls queued behind each other, waited for once, divided. The median of several bursts.
import type { CudaBackend } from 'cuda-backend';
import { median } from '../report.mjs';

export interface Clock {
  /** Milliseconds of one call, or null on the simulated device, where time means nothing. */
  ms(call: () => void): number | null;
}

/** A burst is long enough that the wait at its end does not count, and as short as the peer's, so that both meet the same clocks. */
const burstMs = 12;
const bursts = 7;

export function clockOf(backend: CudaBackend): Clock {
  const once = (call: () => void, times: number): number => {
    const start = performance.now();
    for (let i = 0; i < times; i++) call();
    backend.synchronize();
    return performance.now() - start;
  };
  return {
    ms(call) {
      once(call, 1);
      if (backend.simulated) return null;
      const times = Math.max(3, Math.ceil(burstMs / Math.max(once(call, 3) / 3, 1e-3)));
      return median(Array.from({ length: bursts }, () => once(call, times) / times));
    },
  };
}
