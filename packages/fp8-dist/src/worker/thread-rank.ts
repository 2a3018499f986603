import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { connect } from '../communicator.ts';
import { findAddon } from '../init.ts';

const { rank, size, ports, module, argument } = workerData as {
  rank: number;
  size: number;
  ports: (MessagePort | null)[];
  module: string;
  argument: unknown;
};

async function run(): Promise<unknown> {
  const { default: body } = await import(module);
  const transfer = ports.filter((p): p is MessagePort => p !== null);
  const comm = await connect({ kind: 'ports', rank, size, ports }, await findAddon(), { timeoutMs: 20_000 }, transfer);
  try {
    return await body(comm, argument);
  } finally {
    await comm.close();
  }
}

run().then(
  (result) => parentPort?.postMessage({ result }),
  (error: Error) => parentPort?.postMessage({ error: error.stack ?? String(error) }),
);
