// Time of device work: many calls queued behind each other, waited for once, divided. The median of several bursts.
import type { CudaBackend } from 'cuda-backend';
import { median } from '../report.mjs';

export interface Clock {
  /**
   * Milliseconds of one call, or null on the simulated device, where time means nothing.
   * @param settleMs the same work before the clock runs. Products draw all the power that a chip may have: after a rest they run
   * a fifth faster for a while than they go on to (on an H200: 1565 and 1320 TFLOP/s), so they are compared after a second.
   */
  ms(call: () => void, settleMs?: number): number | null;
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
    ms(call, settleMs = 0) {
      once(call, 1);
      if (backend.simulated) return null;
      const times = Math.max(3, Math.ceil(burstMs / Math.max(once(call, 3) / 3, 1e-3)));
      for (const start = performance.now(); performance.now() - start < settleMs; ) once(call, times);
      return median(Array.from({ length: bursts }, () => once(call, times) / times));
    },
  };
}
