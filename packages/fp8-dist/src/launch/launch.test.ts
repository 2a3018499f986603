import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { parseLaunchArguments } from './cli.ts';
import { launch, type LaunchOptions } from './launch.ts';

const program = (code: string) => [process.execPath, '-e', code];

async function run(options: Partial<LaunchOptions> & { command: readonly string[] }) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  let [out, err] = ['', ''];
  stdout.on('data', (d) => {
    out += d;
  });
  stderr.on('data', (d) => {
    err += d;
  });
  const result = await launch({ nproc: 2, stdout, stderr, flight: null, ...options });
  return { ...result, out, err };
}

describe('launch', () => {
  it('tells each rank who it is, and prefixes its lines', async () => {
    const names = ['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR'];
    const { out, code } = await run({
      command: program(
        `console.log(${JSON.stringify(names)}.map((n) => process.env[n]).join(' ')); console.error('x')`,
      ),
    });
    expect(code).toBe(0);
    expect(out.trim().split('\n').sort()).toEqual(['[0] 0 2 0 2 127.0.0.1', '[1] 1 2 1 2 127.0.0.1']);
  });
  it('gives ranks of the second machine the higher numbers, and the key', async () => {
    const FP8_JOB_KEY = Buffer.alloc(32, 1).toString('base64url');
    const { out } = await run({
      nproc: 1,
      nnodes: 2,
      nodeRank: 1,
      master: '10.1.2.3:29500',
      env: { ...process.env, FP8_JOB_KEY },
      command: program(
        'const e = process.env; console.log([e.RANK, e.MASTER_ADDR, e.MASTER_PORT, e.FP8_JOB_KEY.length].join(" "))',
      ),
    });
    expect(out).toBe('[1] 1 10.1.2.3 29500 43\n');
  });
  it('ends the others when one rank fails, wrappers and all', async () => {
    const start = performance.now();
    const shell = ['sh', '-c', 'if [ $RANK = 1 ]; then exit 7; fi; sleep 60 & sleep 60'];
    const { code, cause, culprit, err } = await run({ command: shell });
    expect(code).toBe(7);
    expect(culprit).toBe(1);
    expect(cause).toMatch(/^rank 1 \(pid \d+\) ended with code 7 after/);
    expect(err).toContain('[launch] rank 1');
    expect(performance.now() - start).toBeLessThan(6000);
  });
  it('says when a command cannot be started', async () => {
    const { code, cause } = await run({ command: ['no-such-program-here'] });
    expect(code).not.toBe(0);
    expect(cause).toContain('could not start no-such-program-here');
  });
  it('refuses what makes no job', async () => {
    await expect(run({ command: [] })).rejects.toThrow('no command');
    await expect(run({ command: ['x'], nproc: 0 })).rejects.toThrow('--nproc is 0');
    await expect(run({ command: ['x'], nnodes: 2 })).rejects.toThrow('--master');
    await expect(run({ command: ['x'], nnodes: 2, master: '0.0.0.0:1' })).rejects.toThrow('not all interfaces');
    await expect(run({ command: ['x'], nnodes: 2, master: '10.0.0.1:29500' })).rejects.toThrow('FP8_JOB_KEY');
    expect(() => parseLaunchArguments(['--nproc', 'two', '--', 'x'])).toThrow('--nproc is "two"');
    expect(() => parseLaunchArguments(['--bogus'])).toThrow('launch: ');
    expect(parseLaunchArguments(['--nproc', '2', '--', 'a', '--nproc', '9'])).toMatchObject({
      nproc: 2,
      command: ['a', '--nproc', '9'],
    });
  });
});
