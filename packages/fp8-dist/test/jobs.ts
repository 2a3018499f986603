// Jobs under the launcher, for tests that break them.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { launch, type LaunchResult } from '../src/index.ts';

export interface Failure {
  failed: number;
  at: number;
  kind: string;
  ranks: number[];
  message: string;
}

/** A JSON line of a rank. */
export interface RankLine {
  rank: number;
  value: Record<string, unknown>;
}

/** Reads what ranks of ranks/loop.ts print, through one launcher or several. */
export function rankLines(size: number) {
  const lines: RankLine[] = [];
  const pids: number[] = Array(size).fill(0);
  const rests: string[] = [];
  let allRunning: (pids: number[]) => void = () => {};
  return {
    lines,
    /** Process ids, once all ranks are in their loop, or at the job's end. */
    running: new Promise<number[]>((resolve) => {
      allRunning = resolve;
    }),
    /** Takes text of a launcher's stdout. */
    take(launcher: number, text: unknown) {
      const parts = `${rests[launcher] ?? ''}${text}`.split('\n');
      rests[launcher] = parts.pop() as string;
      for (const part of parts) {
        const match = /^\[(\d+)\] (\{.*\})$/.exec(part);
        if (!match) continue;
        const value = JSON.parse(match[2]);
        lines.push({ rank: Number(match[1]), value });
        if (value.running) pids[Number(match[1])] = value.running;
      }
      if (pids.every((p) => p > 0)) allRunning(pids);
    },
    end: () => allRunning(pids),
    failures: () => lines.filter((l) => 'failed' in l.value).map((l) => l.value as unknown as Failure),
  };
}

export interface Job {
  /** Process id of each rank, once all are running. */
  running: Promise<number[]>;
  ended: Promise<{
    result: LaunchResult;
    failures: Failure[];
    lines: RankLine[];
    err: string;
    endedAt: number;
  }>;
  /** Ends the job like SIGTERM to the launcher. */
  stop(): void;
  flight: string;
  clean(): void;
}

/** Jobs of this test file make their temporary folders here, so that what they leave behind shows. */
export const ownTmp = mkdtempSync(join(tmpdir(), 'fp8t-'));
process.env.TMPDIR = ownTmp;

/** What jobs have left behind. */
export const leftovers = (): string[] => readdirSync(ownTmp).filter((f) => f.startsWith('fp8lm-'));

export function startJob(nproc: number, env: Record<string, string>): Job {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const flight = mkdtempSync(join(ownTmp, 'flight-'));
  const abort = new AbortController();
  const output = rankLines(nproc);
  stdout.on('data', (d) => output.take(0, d));
  let err = '';
  stderr.on('data', (d) => {
    err += d;
  });
  const program = fileURLToPath(new URL('./ranks/loop.ts', import.meta.url));
  const job = launch({
    command: [process.execPath, '--import', 'tsx', '--conditions=source', program],
    nproc,
    stdout,
    stderr,
    flight,
    signal: abort.signal,
    env: { ...process.env, NODE_OPTIONS: '', FP8_TIMEOUT_MS: '20000', FP8_RENDEZVOUS_TIMEOUT_MS: '60000', ...env },
  });
  const ended = job.then((result) => {
    output.end();
    return { result, failures: output.failures(), lines: output.lines, err, endedAt: Date.now() };
  });
  return {
    running: output.running,
    ended,
    flight,
    stop: () => abort.abort(),
    clean: () => rmSync(flight, { recursive: true, force: true }),
  };
}

/** True while the process exists and is no zombie. */
export function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return existsSync('/proc') ? false : true;
  }
}

/**
 * How long this process itself was held up, at most, since the call: on a machine without free cores, faults are found that
 * much later, and limits in real time must allow for it.
 */
export function watchLag(): () => number {
  let last = performance.now();
  let worst = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    worst = Math.max(worst, now - last - 10);
    last = now;
  }, 10);
  return () => {
    clearInterval(timer);
    return worst;
  };
}

/** How often a fault test repeats: `few` in CI, `many` with FAULTS=all. */
export const times = (few: number, many: number): number => (process.env.FAULTS === 'all' ? many : few);

/** Numbers of rounds; FAULTS_ROUNDS=first:last takes some of them, for campaigns in pieces. */
export function rounds(few: number, many: number): number[] {
  const [first, last] = (process.env.FAULTS_ROUNDS ?? `0:${times(few, many)}`).split(':').map(Number);
  return Array.from({ length: last - first }, (_, i) => first + i);
}

/** Environment of a job whose ranks lack a protection; see ranks/unprotected.ts. */
export const unprotected = (what: 'liveness' | 'deadlines' | 'repeats' | 'agreement'): Record<string, string> => ({
  FP8_TEST_PRELOAD: new URL('./ranks/unprotected.ts', import.meta.url).href,
  FP8_TEST_OFF: what,
});

/** "120 ms (median), 300 ms (p99), 310 ms (largest) of 100". */
export function percentiles(list: number[]): string {
  const sorted = [...list].sort((a, b) => a - b);
  const at = (q: number) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]);
  return `${at(0.5)} ms (median), ${at(0.99)} ms (p99), ${at(1)} ms (largest) of ${list.length}`;
}
