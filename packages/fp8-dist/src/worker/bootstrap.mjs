// Starts a worker whose entry may be TypeScript: `new Worker('x.ts')` does not work under tsx or vitest.
import { workerData } from 'node:worker_threads';

if (workerData.entry.endsWith('.ts')) {
  const { register } = await import('tsx/esm/api');
  register();
}
await import(workerData.entry);
