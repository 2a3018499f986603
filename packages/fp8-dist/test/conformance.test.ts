import { describe, expect, it } from 'vitest';
import { runThreads } from '../src/index.ts';
import { freePort, runProcesses } from './processes.ts';

const module = new URL('./ranks/conformance.ts', import.meta.url);
interface Result {
  failures: string[];
  count: number;
}
/** Small ones travel with the announcement, the last one in chunks, of which each rank has several. */
const sizes = [1, 3, 36_001];
process.env.FP8_SLOT_BYTES = '4096';

function expectClean(results: Result[], size: number): void {
  expect(results).toHaveLength(size);
  for (const [rank, { failures, count }] of results.entries()) {
    expect(failures, `rank ${rank}`).toEqual([]);
    expect(count).toBeGreaterThan(size === 1 ? 40 : 100);
  }
}

describe('collectives', () => {
  for (const size of [1, 2, 3, 4]) {
    it(`are right on ${size} threads`, async () => {
      expectClean(await runThreads<Result>(size, module, sizes), size);
    });
    it(`are right on ${size} processes over IPC`, async () => {
      expectClean(await runProcesses<Result>(size, module, sizes), size);
    });
  }
  it('are right on 3 processes over IPC without shared memory', async () => {
    expectClean(await runProcesses<Result>(3, module, sizes, { FP8_SHM: '0' }), 3);
  });
  it('are right on 2 processes that meet over TCP', async () => {
    expectClean(
      await runProcesses<Result>(2, module, [3, 50_000], {
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: `${await freePort()}`,
      }),
      2,
    );
  });
});
