// `train` on several ranks, as processes under the launcher.
import { describe, expect, test } from 'vitest';
import { fp8lm, jsonLines, ownFolder, tinyRun } from './command.ts';

const tiny = tinyRun(ownFolder());

interface Row {
  step?: number;
  loss?: number;
  valLoss?: number;
  tokens?: number;
  summary?: { comm: { bytesSent: number; bytesReceived: number }; memory: { optimizer: number } };
}

async function run(...args: string[]): Promise<Row[]> {
  const { code, stdout, stderr } = await fp8lm('train', tiny, '--json', ...args);
  expect(code, stderr).toBe(0);
  return jsonLines(stdout) as Row[];
}

const losses = (rows: Row[]) => rows.flatMap(({ loss, valLoss }) => loss ?? valLoss ?? []);

describe('train --nproc', () => {
  test('2 ranks x batch 2 learn what 1 rank x batch 4 learns, in float32 within 1e-5', async () => {
    const one = await run('--recipe', 'fp32', '--batch', '4');
    const two = await run('--recipe', 'fp32', '--batch', '2', '--nproc', '2');
    expect(two.length).toBe(one.length);
    expect(two[0].tokens).toBe(one[0].tokens);
    losses(one).forEach((loss, i) => expect(Math.abs(losses(two)[i] / loss - 1)).toBeLessThan(1e-5));
    expect(one.at(-1)?.summary?.comm).toEqual({ bytesSent: 0, bytesReceived: 0 });
    expect(two.at(-1)?.summary?.comm.bytesSent).toBeGreaterThan(0);
  });

  test('ZeRO changes where states are, not a bit of what is learned', async () => {
    const [whole, ...sharded] = await Promise.all([
      run('--nproc', '2', '--recipe', 'o2'),
      run('--dp', '2', '--recipe', 'o2', '--zero'),
      run('--dp', '2', '--recipe', 'o2', '--zero', '2'),
    ]);
    const states = (rows: Row[]) => rows.at(-1)?.summary?.memory.optimizer as number;
    for (const rows of sharded) {
      expect(losses(rows)).toEqual(losses(whole));
      expect(states(rows)).toBeLessThan(0.6 * states(whole));
    }
  });
});
