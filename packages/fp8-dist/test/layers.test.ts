import { existsSync } from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { runThreads } from '../src/index.ts';
import type { LayersArgument } from './ranks/layers.ts';

const module = new URL('./ranks/layers.ts', import.meta.url);
interface Result {
  failures: string[];
  count: number;
  worst: number;
}

// The ranks are threads of this process and share one pool: more threads would only wait for each other.
process.env.FP8_THREADS = '1';
vi.setConfig({ testTimeout: 300_000 });
const backends = existsSync(new URL('../../cpu-backend/build/cpu_backend.node', import.meta.url))
  ? ['ref', 'cpu']
  : ['ref'];

describe('parallel layers and mappings equal one rank, forward and every gradient', () => {
  for (const size of [1, 2, 4]) {
    it(`at tp ${size}`, async () => {
      const results = await runThreads<Result>(size, module, { backends } satisfies LayersArgument);
      for (const [rank, { failures, count }] of results.entries()) {
        expect(failures, `rank ${rank}`).toEqual([]);
        expect(count).toBeGreaterThan(60 * backends.length);
      }
    });
  }
});
