// Starts a worker whose entry may be TypeScript: `new Worker('x.ts')` does not work under tsx or vitest. Runs from sources only.
import { workerData } from 'node:worker_threads';

if (workerData.entry.endsWith('.ts')) {
  const { register } = await import('tsx/esm/api');
  register();
}
// Tests take protections away here, to show that the tests would notice.
if (process.env.FP8_TEST_PRELOAD) await import(process.env.FP8_TEST_PRELOAD);
await import(workerData.entry);
