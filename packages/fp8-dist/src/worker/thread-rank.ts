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
  // A thread that dies is heard of by its `error` event; silence only means that the machine is busy.
  const patience = { timeoutMs: 60_000, deadAfterMs: 30_000 };
  const comm = await connect({ kind: 'ports', rank, size, ports }, await findAddon(), patience, transfer);
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
