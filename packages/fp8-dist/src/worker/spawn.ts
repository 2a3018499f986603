import { type TransferListItem, Worker } from 'node:worker_threads';

/** Starts a worker from a module of this package, compiled or as TypeScript; `data` reaches it as workerData. */
export function spawnModule(entry: URL, data: Record<string, unknown>, transferList: TransferListItem[] = []): Worker {
  const typescript = entry.pathname.endsWith('.ts');
  const file = typescript ? new URL('./bootstrap.mjs', import.meta.url) : entry;
  const execArgv = typescript ? ['--conditions=source', '--disable-warning=ExperimentalWarning'] : [];
  return new Worker(file, {
    workerData: { ...data, entry: entry.href },
    transferList,
    execArgv,
    stdout: false,
    stderr: false,
  });
}
