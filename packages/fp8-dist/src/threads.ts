// Ranks as threads of this process, for tests: each runs a module's function with a communicator of its own.
import { once } from 'node:events';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { spawnModule } from './worker/spawn.ts';

/**
 * Runs the default export of `module`, `(comm, argument) => result`, on `size` ranks, each in a thread.
 * @param module URL of a module; its result must be plain data
 * @returns the results in rank order
 * @throws the first error of any rank
 */
export async function runThreads<T>(size: number, module: URL, argument: unknown): Promise<T[]> {
  const ports: (MessagePort | null)[][] = Array.from({ length: size }, () => Array(size).fill(null));
  for (let a = 0; a < size; a++) {
    for (let b = a + 1; b < size; b++) {
      const { port1, port2 } = new MessageChannel();
      ports[a][b] = port1;
      ports[b][a] = port2;
    }
  }
  const entry = new URL(
    import.meta.url.endsWith('.ts') ? './worker/thread-rank.ts' : './worker/thread-rank.js',
    import.meta.url,
  );
  const workers = ports.map((own, rank) => {
    const transfer = own.filter((p): p is MessagePort => p !== null);
    return spawnModule(entry, { rank, size, ports: own, module: module.href, argument }, transfer);
  });
  return Promise.all(
    workers.map(async (worker, rank) => {
      // Listened for from the start: a thread that ends before its message is read has both told in one turn.
      const exited = once(worker, 'exit').catch(() => {});
      const failed = once(worker, 'error').then(([error]) => {
        throw error;
      });
      const [message] = (await Promise.race([once(worker, 'message'), failed])) as [{ result?: T; error?: string }];
      await exited;
      if (message.error) throw new Error(`rank ${rank}: ${message.error}`);
      return message.result as T;
    }),
  );
}
