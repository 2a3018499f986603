// L4, F9: jobs that start and end, many times, and launchers that are asked to end or killed. Nothing may hang, abort or stay
// behind. FAULTS=all: 1000 jobs of 4 ranks from the compiled packages; FAULTS_ROUNDS=first:last takes some of them.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { launch } from '../../src/index.ts';
import { isRunning, leftovers, ownTmp, rankLines, rounds, times } from '../jobs.ts';

const full = process.env.FAULTS === 'all';
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const source = ['--import', 'tsx', '--conditions=source'];

afterAll(() => {
  expect(leftovers()).toEqual([]);
  rmSync(ownTmp, { recursive: true, force: true });
});

/** What is wrong with a job of short ranks once it has ended; empty if nothing. */
async function problemsOf(round: number, env: Record<string, string> = {}): Promise<string[]> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const output = rankLines(4);
  let err = '';
  stdout.on('data', (d) => output.take(0, d));
  stderr.on('data', (d) => {
    err += d;
  });
  const signal = AbortSignal.timeout(60_000);
  const { code, cause } = await launch({
    command: [process.execPath, ...(full ? [] : source), file('../ranks/short.mjs')],
    nproc: 4,
    stdout,
    stderr,
    flight: null,
    signal,
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      FP8_TIMEOUT_MS: '30000',
      LATE: `${round % 13}:${round % 7}`,
      // Every third job ends without a farewell, as programs do that throw or exit.
      LEAVE: round % 3 === 2 ? 'no' : 'yes',
      ...env,
    },
  });
  const pids = output.lines.map((l) => l.value.running as number);
  const problems: string[] = [];
  if (signal.aborted) problems.push('hung for a minute');
  if (code !== 0) problems.push(`code ${code}: ${cause}`);
  if (pids.length !== 4) problems.push(`${pids.length} ranks came to their end`);
  for (const pid of pids) if (isRunning(pid)) problems.push(`process ${pid} is left`);
  for (const name of leftovers()) problems.push(`folder ${name} is left`);
  if (/assert|abort/i.test(err)) problems.push(err);
  return problems;
}

describe('jobs', { timeout: times(240_000, 7_200_000) }, () => {
  it('start and end, and leave nothing behind', async () => {
    const list = rounds(4, 1000);
    const start = performance.now();
    for (const round of list) expect(await problemsOf(round), `job ${round}`).toEqual([]);
    const seconds = (performance.now() - start) / 1000;
    console.log(`${list.length} jobs of 4 ranks started and ended, ${(seconds / list.length).toFixed(2)} s each`);
  });

  it('that fail or leave something behind are noticed (control)', async () => {
    expect(await problemsOf(0, { FP8_JOB_KEY: 'short', MASTER_ADDR: 'x', NODE_OPTIONS: '--bad' })).not.toEqual([]);
    const folder = mkdtempSync(join(ownTmp, 'fp8lm-'));
    expect(await problemsOf(0)).toHaveLength(1);
    rmSync(folder, { recursive: true });
  });
});

interface Launcher {
  child: ChildProcess;
  pids: number[];
  ended: Promise<{ code: number | null; err: string; at: number }>;
}

/** A launcher process of two ranks, once they run. */
async function startLauncher(command: readonly string[]): Promise<Launcher> {
  const child = spawn(
    process.execPath,
    [...source, file('../ranks/launcher.ts'), '--nproc', '2', '--flight', join(ownTmp, 'flight'), '--', ...command],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_OPTIONS: '' },
    },
  );
  const output = rankLines(2);
  let err = '';
  child.stdout.on('data', (d) => output.take(0, d));
  child.stderr.on('data', (d) => {
    err += d;
  });
  const ended = new Promise<{ code: number | null; err: string; at: number }>((resolve) => {
    child.on('close', (code) => resolve({ code, err, at: performance.now() }));
  });
  void ended.then(() => output.end());
  return { child, pids: await output.running, ended };
}

const running = 'process.stdout.write(JSON.stringify({ running: process.pid }) + "\\n");';
const stubborn = [
  process.execPath,
  '-e',
  `for (const s of ["SIGINT", "SIGTERM"]) process.on(s, () => {}); ${running} setInterval(() => {}, 1000);`,
];
const loop = [process.execPath, ...source, file('../ranks/loop.ts')];

describe('a launcher', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('ends the job on %s, with exit code %i', async (signal, expected) => {
    const { child, pids, ended } = await startLauncher(loop);
    child.kill(signal);
    const { code, err } = await ended;
    expect(code, err).toBe(expected);
    for (const pid of pids) expect(isRunning(pid)).toBe(false);
    expect(leftovers()).toEqual([]);
  });

  it('lets ranks take their time on the first signal, and none on the second', async () => {
    const { child, pids, ended } = await startLauncher(stubborn);
    child.kill('SIGTERM');
    await pause(1000);
    expect(pids.every(isRunning)).toBe(true);
    child.kill('SIGTERM');
    const { code, err } = await ended;
    expect(code).toBe(143);
    expect(err).toContain('SIGTERM again: ending at once');
    for (const pid of pids) expect(isRunning(pid)).toBe(false);
  });

  it('that is killed takes its ranks and its folder with it', async () => {
    const { child, pids, ended } = await startLauncher(loop);
    child.kill('SIGKILL');
    await ended;
    for (let i = 0; i < 600 && (pids.some(isRunning) || leftovers().length); i++) await pause(50);
    expect(pids.filter(isRunning)).toEqual([]);
    expect(leftovers()).toEqual([]);
  });

  it("passes a user's mistake on as exit code 2", () => {
    const args = [
      ...source,
      file('../ranks/launcher.ts'),
      '--nproc',
      '1',
      '--nnodes',
      '2',
      '--master',
      '10.0.0.1:29500',
    ];
    const { status, stderr } = spawnSync(process.execPath, [...args, '--', 'true'], {
      encoding: 'utf8',
      env: { ...process.env, FP8_JOB_KEY: '', FP8_JOB_KEY_FILE: '' },
    });
    expect(status).toBe(2);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toContain('machines need a common key');
  });
});
