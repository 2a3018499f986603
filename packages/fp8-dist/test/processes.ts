// Starts ranks as processes for tests, without the launcher.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Ended {
  rank: number;
  code: number | null;
  signal: string | null;
  out: string;
  err: string;
}

/** A port that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

export interface RankProcess {
  rank: number;
  child: ChildProcess;
  ended: Promise<Ended>;
}

/** A folder for one job's sockets, removed by `done`. */
export function jobFolder(): { folder: string; done: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'fp8t-'));
  return { folder, done: () => rmSync(folder, { recursive: true, force: true }) };
}

export function startRanks(size: number, module: URL, argument: unknown, env: Record<string, string>): RankProcess[] {
  return Array.from({ length: size }, (_, rank) => {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', '--conditions=source', fileURLToPath(new URL('./ranks/process.ts', import.meta.url))],
      {
        env: {
          ...process.env,
          NODE_OPTIONS: '',
          RANK: `${rank}`,
          WORLD_SIZE: `${size}`,
          LOCAL_RANK: `${rank}`,
          LOCAL_WORLD_SIZE: `${size}`,
          TEST_MODULE: module.href,
          TEST_ARGUMENT: JSON.stringify(argument),
          FP8_RENDEZVOUS_TIMEOUT_MS: '30000',
          FP8_TIMEOUT_MS: '20000',
          ...env,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    let out = '';
    let err = '';
    child.stdout.on('data', (d) => {
      out += d;
    });
    child.stderr.on('data', (d) => {
      err += d;
    });
    const ended = new Promise<Ended>((resolve) => {
      child.on('close', (code, signal) => resolve({ rank, code, signal, out, err }));
    });
    return { rank, child, ended };
  });
}

/** Runs a job to its end and returns each rank's result. @throws with a rank's error output if it failed */
export async function runProcesses<T>(
  size: number,
  module: URL,
  argument: unknown,
  env: Record<string, string> = {},
): Promise<T[]> {
  const { folder, done } = jobFolder();
  try {
    const wiring: Record<string, string> = env.MASTER_PORT ? {} : { FP8_JOB_FOLDER: folder };
    const ranks = startRanks(size, module, argument, { ...wiring, ...env });
    const ended = await Promise.all(ranks.map((r) => r.ended));
    return ended.map(({ rank, code, signal, out, err }) => {
      if (code !== 0) throw new Error(`rank ${rank} ended with ${code ?? signal}: ${err}\n${out}`);
      return (JSON.parse(out) as { result: T }).result;
    });
  } finally {
    done();
  }
}
