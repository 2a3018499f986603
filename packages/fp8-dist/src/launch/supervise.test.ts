import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { parseLaunchArguments } from './cli.ts';
import { givenUp, supervise, type SuperviseOptions } from './supervise.ts';

const folder = mkdtempSync(join(tmpdir(), 'fp8-supervise-'));
const log = join(folder, 'log');
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => rmSync(log, { force: true }));

/** One rank: writes its restart count down, then ends with the code that belongs to it, the last one from then on. */
const script = (codes: readonly number[]) => [
  process.execPath,
  '-e',
  `const n = Number(process.env.FP8_RESTART_COUNT), codes = ${JSON.stringify(codes)};
   require('fs').appendFileSync(${JSON.stringify(log)}, n + ' ' + (process.argv[1] ?? '') + '\\n');
   process.exit(codes[Math.min(n, codes.length - 1)]);`,
];

async function run(options: Partial<SuperviseOptions> & { command: readonly string[] }) {
  const stderr = new PassThrough();
  let err = '';
  stderr.on('data', (d) => {
    err += d;
  });
  const result = await supervise({ nproc: 1, maxRestarts: 3, stderr, flight: null, ...options });
  return { ...result, err, starts: readFileSync(log, 'utf8').trim().split('\n') };
}

describe('supervise', () => {
  it('starts a job that fails again, and tells it how often', async () => {
    const { code, cause, restarts, starts, err } = await run({ command: script([7, 137, 0]) });
    expect([code, cause, restarts]).toEqual([0, null, 2]);
    expect(starts.map((line) => line.trim())).toEqual(['0', '1', '2']);
    expect(err).toMatch(/rank 0 \(pid \d+\) ended with code 7 after .* s; starting again \(1 of 3 without progress\)/);
  });
  it('gives up after as many restarts in a row as brought no progress', async () => {
    const { code, cause, restarts, starts } = await run({ command: script([7]) });
    expect([code, restarts, starts.length]).toEqual([givenUp, 3, 4]);
    expect(cause).toMatch(/^rank 0 \(pid \d+\) ended with code 7 .*; given up after 3 restarts without progress$/);
  });
  it('does not count restarts that got on', async () => {
    const codes = [7, 7, 7, 7, 7, 7, 0];
    const progress = () => `${existsSync(log) ? Math.floor(readFileSync(log, 'utf8').split('\n').length / 2) : 0}`;
    const { code, restarts } = await run({ command: script(codes), maxRestarts: 2, progress });
    expect([code, restarts]).toEqual([0, 6]);
  });
  it('takes another command for restarts', async () => {
    const command = script([7, 0]);
    const { starts } = await run({ command, commandAgain: () => [...command, 'again'] });
    expect(starts).toEqual(['0 ', '1 again']);
  });
  it("starts nothing again after a user's mistake, an interrupt, or without being told to", async () => {
    expect(await run({ command: script([2]) })).toMatchObject({ code: 2, restarts: 0 });
    rmSync(log);
    expect(await run({ command: script([7]), maxRestarts: 0 })).toMatchObject({ code: 7, restarts: 0 });
    rmSync(log);
    const signal = AbortSignal.timeout(1000);
    const forever = [
      process.execPath,
      '-e',
      `require('fs').writeFileSync(${JSON.stringify(log)}, '0'); setInterval(() => {}, 1000)`,
    ];
    expect(await run({ command: forever, signal })).toMatchObject({ code: 143, restarts: 0 });
  });
  it('refuses what is no number of restarts', async () => {
    await expect(supervise({ command: ['x'], nproc: 1, maxRestarts: -1 })).rejects.toThrow('--max-restarts is -1');
    expect(() => parseLaunchArguments(['--max-restarts', 'many', '--', 'x'])).toThrow('--max-restarts is "many"');
    expect(parseLaunchArguments(['--max-restarts', '3', '--', 'x']).maxRestarts).toBe(3);
  });
});
