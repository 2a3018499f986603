// The launcher: starts the ranks of a job on this machine, and sees that they end together. A rank that dies takes the others
// with it within seconds, named; an interrupt reaches all; no process, socket or folder is left behind.
//
// Each rank leads a process group of its own, so that wrappers (tsx, shells) and what they started end too.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { UserError } from 'fp8-core';
import { makeSocketFolder } from '../host.ts';
import { isLoopback, jobKeyFrom, newJobKey } from '../rendezvous/security.ts';
import { prefixLines } from './prefix.ts';

export interface LaunchOptions {
  /** Program and arguments of a rank. */
  command: readonly string[];
  /** Ranks on this machine. */
  nproc: number;
  /** Machines, and which one this is. Default one. */
  nnodes?: number;
  nodeRank?: number;
  /** host:port of rank 0, for several machines. */
  master?: string;
  /** Folder for flight records of a failed job; default `fp8lm-flight` here. Null: none. */
  flight?: string | null;
  /** Where ranks' lines and the launcher's own go. Default stdout and stderr. */
  stdout?: NodeJS.WritableStream;
  stderr?: NodeJS.WritableStream;
  /**
   * `none` passes ranks' output on unchanged: rank 0 only on stdout, for programs that print JSON. `first` also gives rank 0's
   * stderr as it is, for a program whose rank 0 speaks for all. Default `rank`.
   */
  prefix?: 'rank' | 'none' | 'first';
  /** How long ranks may take to save and end after a first interrupt; default FP8_STOP_GRACE_MS or 8 s. */
  stopGraceMs?: number;
  env?: NodeJS.ProcessEnv;
  /** Ends the job like SIGTERM does. */
  signal?: AbortSignal;
}

export interface LaunchResult {
  /** What the launcher should exit with: 0, the first failing rank's code, or 128 + signal. */
  code: number;
  /** The rank that failed first, or null. */
  culprit: number | null;
  /** One line that says why the job ended early, or null. */
  cause: string | null;
  /** Flight records, if any were written. */
  flight: string[];
}

/** How long ranks may take to end by themselves after one failed (they name it, and write their records), then after SIGTERM. */
const graceMs = 1500;
const killMs = 2000;
/** A first interrupt lets ranks save and end. */
const interruptGraceMs = Number(process.env.FP8_STOP_GRACE_MS ?? 8000);
const signalNumbers: Record<string, number> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGKILL: 9,
  SIGTERM: 15,
  SIGSEGV: 11,
  SIGABRT: 6,
  SIGBUS: 7,
};

interface Rank {
  rank: number;
  child: ChildProcess;
  pid: number;
  ended: boolean;
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

function checkOptions(o: LaunchOptions): { nnodes: number; nodeRank: number; host: string | null; port: number } {
  const { nproc, nnodes = 1, nodeRank = 0, master } = o;
  if (!o.command.length)
    throw new UserError('launch: no command; put it after --, as in `fp8lm launch --nproc 2 -- tsx train.ts`');
  if (!Number.isInteger(nproc) || nproc < 1 || nproc > 1024)
    throw new UserError(`launch: --nproc is ${nproc}; expected 1 to 1024`);
  if (!Number.isInteger(nnodes) || nnodes < 1)
    throw new UserError(`launch: --nnodes is ${nnodes}; expected at least 1`);
  if (!Number.isInteger(nodeRank) || nodeRank < 0 || nodeRank >= nnodes)
    throw new UserError(`launch: --node-rank is ${nodeRank}; expected 0 to ${nnodes - 1}`);
  if (nnodes === 1 && !master) return { nnodes, nodeRank, host: null, port: 0 };
  if (!master) throw new UserError('launch: --nnodes above 1 needs --master HOST:PORT, the same on all machines');
  const match = /^\[?([^\]]+?)\]?:(\d+)$/.exec(master);
  const port = Number(match?.[2]);
  if (!match || port < 1 || port > 65535)
    throw new UserError(`launch: --master is ${JSON.stringify(master)}; expected HOST:PORT`);
  if (match[1] === '0.0.0.0' || match[1] === '*')
    throw new UserError('launch: --master must name the address of rank 0, not all interfaces');
  return { nnodes, nodeRank, host: match[1], port };
}

/**
 * Runs a job to its end.
 * @throws UserError if the options make no job
 */
export async function launch(options: LaunchOptions): Promise<LaunchResult> {
  const { nnodes, nodeRank, host, port } = checkOptions(options);
  const { nproc, command } = options;
  const out = options.stdout ?? process.stdout;
  const err = options.stderr ?? process.stderr;
  const base = options.env ?? process.env;
  const flight = options.flight === undefined ? join(process.cwd(), 'fp8lm-flight') : options.flight;
  const worldSize = nproc * nnodes;
  const oneMachine = host === null;
  let jobKey = jobKeyFrom(base);
  if (!oneMachine && !isLoopback(host) && !jobKey) {
    if (nnodes > 1) {
      throw new UserError(
        `launch: machines need a common key: make one with \`node -p "crypto.randomBytes(32).toString('base64url')"\` and set ` +
          'FP8_JOB_KEY (or FP8_JOB_KEY_FILE, mode 600) to it on all of them',
      );
    }
    jobKey = newJobKey();
  }
  const masterPort = oneMachine ? await freePort() : port;
  const folder = makeSocketFolder();
  const threads = Math.max(1, Math.floor(availableParallelism() / nproc));
  const started = Date.now();

  const ranks: Rank[] = [];
  let failure: { culprit: number; cause: string; code: number } | null = null;
  let stopping: NodeJS.Signals | null = null;
  const timers: NodeJS.Timeout[] = [];
  const say = (line: string) => err.write(`[launch] ${line}\n`);
  const killAll = (signal: NodeJS.Signals) => {
    for (const r of ranks) signalGroup(r, signal);
  };

  const ends: Promise<void>[] = [];
  for (let local = 0; local < nproc; local++) {
    const rank = nodeRank * nproc + local;
    const env: NodeJS.ProcessEnv = {
      ...base,
      RANK: `${rank}`,
      WORLD_SIZE: `${worldSize}`,
      LOCAL_RANK: `${local}`,
      LOCAL_WORLD_SIZE: `${nproc}`,
      GROUP_RANK: `${nodeRank}`,
      NODE_RANK: `${nodeRank}`,
      MASTER_ADDR: host ?? '127.0.0.1',
      MASTER_PORT: `${masterPort}`,
      FP8_THREADS: base.FP8_THREADS ?? `${threads}`,
      FP8_LAUNCHER_PID: `${process.pid}`,
    };
    if (oneMachine) env.FP8_JOB_FOLDER = folder;
    else env.FP8_SOCKET_FOLDER = folder;
    if (jobKey && !base.FP8_JOB_KEY_FILE) env.FP8_JOB_KEY = jobKey;
    if (flight) env.FP8_FLIGHT_DIR = flight;
    const speaks = options.prefix === 'first' && rank === 0;
    // The stream itself where it is the process's own, so that a terminal stays one.
    const own = (stream: NodeJS.WritableStream, itself: NodeJS.WritableStream) =>
      speaks && stream === itself ? ('inherit' as const) : ('pipe' as const);
    const child = spawn(command[0], command.slice(1), {
      env,
      stdio: ['ignore', own(out, process.stdout), own(err, process.stderr)],
      detached: true,
    });
    const entry: Rank = { rank, child, pid: child.pid ?? 0, ended: false };
    ranks.push(entry);
    const plain = options.prefix === 'none' || options.prefix === 'first';
    if (!plain && child.stdout) prefixLines(child.stdout, out as never, `[${rank}] `);
    else if (rank === 0) child.stdout?.pipe(out, { end: false });
    else child.stdout?.resume();
    if (speaks) child.stderr?.pipe(err, { end: false });
    else if (child.stderr) prefixLines(child.stderr, err as never, `[${rank}] `);
    ends.push(
      new Promise((resolve) => {
        child.on('error', (error) => {
          ended(entry, null, null, `could not start ${command[0]}: ${error.message}`);
          resolve();
        });
        child.on('exit', (code, signal) => ended(entry, code, signal));
        child.on('close', () => resolve());
      }),
    );
  }

  function ended(entry: Rank, code: number | null, signal: NodeJS.Signals | null, why?: string): void {
    if (entry.ended) return;
    entry.ended = true;
    const bad = why !== undefined || code !== 0;
    if (!bad || failure || stopping) return;
    const hint = signal === 'SIGKILL' ? ' (by the kernel, if memory ran out: see `dmesg`)' : '';
    const how = why ?? (signal ? `was killed by ${signal}${hint}` : `ended with code ${code}`);
    failure = {
      culprit: entry.rank,
      cause: `rank ${entry.rank} (pid ${entry.pid}) ${how} after ${((Date.now() - started) / 1000).toFixed(1)} s`,
      code: signal ? 128 + (signalNumbers[signal] ?? 0) : (code ?? 1) || 1,
    };
    say(`${failure.cause}; ending the other ranks`);
    timers.push(
      setTimeout(() => killAll('SIGTERM'), graceMs),
      setTimeout(() => killAll('SIGKILL'), graceMs + killMs),
    );
  }

  function interrupt(signal: NodeJS.Signals): void {
    if (stopping) {
      say(`${signal} again: ending at once`);
      return killAll('SIGKILL');
    }
    stopping = signal;
    say(`${signal}: asking all ranks to end (again to end them at once)`);
    killAll(signal === 'SIGHUP' ? 'SIGTERM' : signal);
    timers.push(setTimeout(() => killAll('SIGKILL'), options.stopGraceMs ?? interruptGraceMs));
  }

  const handlers = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => [name, () => interrupt(name)] as const);
  for (const [name, handler] of handlers) process.on(name, handler);
  const onAbort = () => interrupt('SIGTERM');
  options.signal?.addEventListener('abort', onAbort);
  try {
    await Promise.all(ends);
  } finally {
    for (const t of timers) clearTimeout(t);
    for (const [name, handler] of handlers) process.off(name, handler);
    options.signal?.removeEventListener('abort', onAbort);
    // Whatever a rank started and left running.
    killAll('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  }
  const failed = failure as { culprit: number; cause: string; code: number } | null;
  const records =
    failed && flight && existsSync(flight)
      ? readdirSync(flight)
          .filter((f) => f.startsWith('flight-'))
          .map((f) => join(flight, f))
      : [];
  if (failed && records.length) say(`flight records: ${records.join(', ')}`);
  if (stopping)
    return { code: 128 + signalNumbers[stopping], culprit: null, cause: `stopped by ${stopping}`, flight: [] };
  return { code: failed?.code ?? 0, culprit: failed?.culprit ?? null, cause: failed?.cause ?? null, flight: records };
}

/** A signal to a rank and all it started; what has ended already is no fault. */
function signalGroup(r: Rank, signal: NodeJS.Signals): void {
  if (!r.pid) return;
  try {
    process.kill(-r.pid, signal);
  } catch {
    // no such group any more
  }
}
