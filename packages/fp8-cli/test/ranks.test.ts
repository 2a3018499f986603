// `train` on several ranks, as processes under the launcher.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { finish, fp8lm, jsonLines, ownFolder, start, tinyRun } from './command.ts';

// Ten starts of several processes, on a machine that may be busy.
vi.setConfig({ testTimeout: 600_000 });

const folder = ownFolder();
const tiny = tinyRun(folder);

interface Row {
  step?: number;
  loss?: number;
  valLoss?: number;
  tokens?: number;
  summary?: { comm: { bytesSent: number; bytesReceived: number }; memory: { optimizer: number } };
}

async function run(...args: string[]): Promise<Row[]> {
  const { code, stdout, stderr } = await fp8lm('train', ...args, '--json');
  expect(code, stderr).toBe(0);
  return jsonLines(stdout) as Row[];
}

const losses = (rows: Row[]) => rows.flatMap(({ loss, valLoss }) => loss ?? valLoss ?? []);
const hashOf = (out: string, step: number) =>
  ['model', 'optimizer'].map((name) =>
    createHash('sha256')
      .update(readFileSync(join(out, `step-${step}`, `${name}.safetensors`)))
      .digest('hex'),
  );

/** Children of a launcher: the ranks. */
function ranksOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return Number(readFileSync(`/proc/${name}/stat`, 'utf8').split(') ')[1].split(' ')[1]) === pid;
      } catch {
        return false; // ended meanwhile
      }
    })
    .map(Number)
    .sort((a, b) => a - b);
}

/** Starts 2 ranks that would train for very long, and waits until they have done a few steps. */
async function startEndless(out: string, ...layout: string[]) {
  const endless = ['--steps', '1000000', '--save-every', '5', '--out', out, '--json'];
  const child = start(['train', tiny, ...(layout.length ? layout : ['--nproc', '2']), ...endless]);
  const finished = finish(child);
  await new Promise<void>((resolve) => {
    let seen = '';
    child.stdout.on('data', (chunk) => {
      seen += chunk;
      if (seen.includes('"step":12,')) resolve();
    });
    child.on('close', () => resolve());
  });
  return { child, finished };
}

describe('train --nproc', () => {
  test('2 ranks x batch 2 learn what 1 rank x batch 4 learns, in float32 within 1e-5', async () => {
    const one = await run(tiny, '--recipe', 'fp32', '--batch', '4');
    const two = await run(tiny, '--recipe', 'fp32', '--batch', '2', '--nproc', '2');
    expect(two.length).toBe(one.length);
    expect(two[0].tokens).toBe(one[0].tokens);
    losses(one).forEach((loss, i) => expect(Math.abs(losses(two)[i] / loss - 1)).toBeLessThan(1e-5));
    expect(one.at(-1)?.summary?.comm).toEqual({ bytesSent: 0, bytesReceived: 0 });
    expect(two.at(-1)?.summary?.comm.bytesSent).toBeGreaterThan(0);
  });

  test('ZeRO writes the checkpoints that ranks without it write, and another number of ranks goes on from them', async () => {
    const out = (name: string) => join(folder, name);
    const common = [tiny, '--recipe', 'o3', '--steps', '4'];
    const [whole, sharded] = await Promise.all([
      run(...common, '--nproc', '2', '--out', out('whole')),
      run(...common, '--dp', '2', '--zero', '2', '--out', out('sharded')),
    ]);
    expect(losses(sharded)).toEqual(losses(whole));
    expect(hashOf(out('sharded'), 4)).toEqual(hashOf(out('whole'), 4));
    const states = (rows: Row[]) => rows.at(-1)?.summary?.memory.optimizer as number;
    expect(states(sharded)).toBeLessThan(0.6 * states(whole));
    // The batch of the whole job stays: 2 x 2 = 1 x 4.
    const rest = await run('--resume', '--out', out('sharded'), '--steps', '6', '--nproc', '1', '--batch', '4');
    expect(rest.map(({ step }) => step)).toEqual([5, 6, 6, undefined]);
    const same = await run('--resume', '--out', out('whole'), '--steps', '6');
    losses(rest).forEach((loss, i) => expect(Math.abs(losses(same)[i] / loss - 1)).toBeLessThan(0.01));
  });

  test('Ctrl-C ends all ranks at one step, saved, with code 130', async () => {
    const out = join(folder, 'interrupted');
    const { child, finished } = await startEndless(out);
    child.kill('SIGINT');
    const { code, stdout, stderr } = await finished;
    expect(code, stderr).toBe(130);
    const rows = jsonLines(stdout) as Row[];
    const last = rows.findLast(({ loss }) => loss !== undefined)?.step as number;
    expect(readFileSync(join(out, 'latest'), 'utf8').trim()).toBe(`step-${last}`);
    expect(rows.at(-1)).toHaveProperty('summary');
  });

  test('rank 0 killed, which writes the checkpoints, ends the job with its code and cause; the last checkpoint is whole', async () => {
    const out = join(folder, 'killed');
    const { child, finished } = await startEndless(out);
    process.kill(ranksOf(child.pid as number)[0], 'SIGKILL');
    const { code, stderr } = await finished;
    expect(code).toBe(137);
    expect(stderr).toMatch(/the job ended early: rank 0 .* was killed by SIGKILL/);
    const saved = Number(readFileSync(join(out, 'latest'), 'utf8').trim().slice('step-'.length));
    const rest = await run('--resume', '--out', out, '--steps', String(saved + 2), '--zero');
    expect(rest[0].step).toBe(saved + 1);
  });

  test("a user's mistake is one line, whichever rank finds it", async () => {
    const { code, stdout, stderr } = await fp8lm('train', tiny, '--nproc', '2', '--data', join(folder, 'none.txt'));
    expect(code).toBe(2);
    expect(stdout).toBe('');
    const own = stderr.split('\n').filter((line) => line !== '' && !/\[launch\]|ended early/.test(line));
    expect(own).toEqual([expect.stringMatching(/^fp8lm: .*none\.txt: it does not exist/)]);
  });
});

describe('train --pp', () => {
  const layers = [tiny, '--set', 'model.numLayers=4', '--grad-accum', '4', '--recipe', 'fp32'];

  test('data-parallel pipelines with uneven stages and ZeRO learn what 1 rank learns, within 1e-5', async () => {
    const one = await run(...layers);
    const many = await run(...layers, '--pp', '2', '--dp', '2', '--batch', '1', '--zero', '--layout', '3,1');
    expect(many.length).toBe(one.length);
    losses(one).forEach((loss, i) => expect(Math.abs(losses(many)[i] / loss - 1)).toBeLessThan(1e-5));
  });

  test('a rank killed in a step ends all with the cause; the last checkpoint goes on in other layouts', async () => {
    const out = join(folder, 'pipeline');
    const { child, finished } = await startEndless(out, ...layers.slice(1), '--pp', '2', '--virtual', '2');
    process.kill(ranksOf(child.pid as number)[1], 'SIGKILL');
    const { code, stderr } = await finished;
    expect(code).toBe(137);
    expect(stderr).toMatch(/the job ended early: rank 1 .* was killed by SIGKILL/);
    const saved = Number(readFileSync(join(out, 'latest'), 'utf8').trim().slice('step-'.length));
    const rest = async (steps: number, ...layout: string[]): Promise<Row[]> =>
      run('--resume', '--out', out, '--steps', String(saved + steps), '--schedule', 'constant', ...layout);
    const alone = await rest(1, '--nproc', '1');
    expect(alone[0].step).toBe(saved + 1);
    const [next] = await rest(2, '--pp', '2', '--layout', '1,3');
    expect(next.step).toBe(saved + 2);
  });

  test('a layout that does not fit is one line with the numbers', async () => {
    const refused = async (...args: string[]): Promise<string> => {
      const { code, stderr } = await fp8lm('train', ...layers, ...args);
      expect(code).toBe(2);
      return stderr;
    };
    expect(await refused('--pp', '2', '--nproc', '3')).toContain('world size 3 = tp 1 x pp 2 x dp 1.5');
    expect(await refused('--pp', '2', '--dp', '2', '--nproc', '2')).toContain(
      'world size 2 = tp 1 x pp 2 x dp 2 does not hold: the product is 4; use --nproc 4',
    );
    expect(await refused('--pp', '8')).toContain('4 layers on 8 places');
    expect(await refused('--pp', '2', '--layout', '1,2')).toContain('layout [1,2] has 3 layers on 2 places; need 4');
    expect(await refused('--pp', '2', '--virtual', '2', '--grad-accum', '3')).toContain(
      '3 micro-batches in groups of 2 leave 1 on 2 stages',
    );
  });
});
