// F1 on real training: a rank of `fp8lm train --dp 4 --zero` is killed at a random moment; the run goes on from its last checkpoint, by
// hand or (F12) by itself, and ends with the bits of a run that nobody disturbed. FAULTS=all: 20 kills, and 40 in 10 runs.
import { createHash } from 'node:crypto';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { isRunning, leftovers, ownTmp, times } from '../jobs.ts';

const cli = fileURLToPath(new URL('../../../fp8-cli/bin/fp8lm.mjs', import.meta.url));
const steps = 24;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

afterAll(() => {
  expect(leftovers()).toEqual([]);
  rmSync(ownTmp, { recursive: true, force: true });
});

/** English of a sort, the same each time. */
function text(): string {
  const words = 'the rank that waits for a sum of eight bits and of a scale is not the one who was late'.split(' ');
  let x = 7;
  const next = () => (x = (x * 48_271) % 0x7fffffff);
  return Array.from({ length: 6000 }, () => words[next() % words.length] + (next() % 9 ? '' : '.\n')).join(' ');
}

/** @param launcher `launch`, or the trainer as its own */
function start(out: string, more: string[], launcher: 'launch' | 'train' = 'launch') {
  const file = join(ownTmp, 'text.txt');
  if (!existsSync(file)) writeFileSync(file, text());
  const job = ['launch', '--nproc', '4', '--flight', join(ownTmp, 'flight'), '--', process.execPath, cli];
  const command = [...(launcher === 'launch' ? job : []), 'train', '--out', out, ...more];
  const child = spawn(process.execPath, [cli, ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '', FP8_THREADS: '1' },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (d) => {
      output += d;
    });
  }
  const ended = new Promise<{ code: number | null; output: string; at: number }>((resolve) => {
    child.on('close', (code) => resolve({ code, output, at: Date.now() }));
  });
  return { child, ended, output: () => output };
}

const fresh = ['gpt-nano', '--data', join(ownTmp, 'text.txt'), '--recipe', 'o2', '--dp', '4', '--zero'].concat([
  '--steps',
  `${steps}`,
  '--batch',
  '1',
  '--seq',
  '64',
  '--save-every',
  '4',
  '--eval-every',
  '0',
]);

/** Hashes of the last checkpoint's tensors. */
function bits(out: string): Record<string, string> {
  const folder = join(out, `step-${steps}`);
  const files = readdirSync(folder).filter((f) => f.endsWith('.safetensors'));
  return Object.fromEntries(
    files.map((f) => [
      f,
      createHash('sha256')
        .update(readFileSync(join(folder, f)))
        .digest('hex'),
    ]),
  );
}

/** The ranks: children of the launcher. */
const ranksOf = (launcher: number): number[] =>
  readFileSync(`/proc/${launcher}/task/${launcher}/children`, 'utf8').trim().split(/\s+/).filter(Boolean).map(Number);

describe.skipIf(process.platform !== 'linux')('training', { timeout: times(240_000, 3_600_000) }, () => {
  it('ends when a rank is killed, and goes on from its last checkpoint to the same bits', async () => {
    mkdirSync(ownTmp, { recursive: true });
    const calm = join(ownTmp, 'calm');
    const first = await start(calm, fresh).ended;
    expect(first.code, first.output).toBe(0);
    for (let round = 0; round < times(1, 20); round++) {
      const out = join(ownTmp, `run${round}`);
      const job = start(out, fresh);
      while (!job.output().includes('step 5/')) await pause(5);
      await pause(Math.random() * 500);
      const pids = ranksOf(job.child.pid as number);
      expect(pids).toHaveLength(4);
      const victim = pids[Math.floor(Math.random() * 4)];
      try {
        process.kill(victim, 'SIGKILL');
      } catch {
        continue; // the job was faster
      }
      const { code, output } = await job.ended;
      if (code === 0) continue;
      expect(code, output).toBe(137);
      expect(output).toMatch(new RegExp(`rank \\d \\(pid ${victim}\\) was killed by SIGKILL`));
      for (const pid of pids) expect(isRunning(pid)).toBe(false);
      const resumed = await start(out, ['--resume']).ended;
      expect(resumed.code, resumed.output).toBe(0);
      expect(bits(out)).toEqual(bits(calm));
      rmSync(out, { recursive: true });
    }
  });

  it('goes on by itself with --max-restarts, whenever a rank is killed', async () => {
    const calm = join(ownTmp, 'calm');
    if (!existsSync(calm)) expect((await start(calm, fresh).ended).code).toBe(0);
    for (let round = 0; round < times(1, 10); round++) {
      const out = join(ownTmp, `restarted${round}`);
      const job = start(out, [...fresh, '--max-restarts', '1', '--keep', '99'], 'train');
      let done = false;
      void job.ended.then(() => (done = true));
      const newest = () =>
        existsSync(out) ? Math.max(0, ...readdirSync(out).map((f) => Number(/^step-(\d+)$/.exec(f)?.[1] ?? 0))) : 0;
      const restarts = () => job.output().match(/; starting again \(1 of 1/g)?.length ?? 0;
      // More kills than restarts that may be in vain: each new checkpoint earns new ones.
      let [kills, last] = [0, 0];
      while (kills < 4 && !done && newest() < 20) {
        while (newest() <= last && !done) await pause(5);
        await pause(Math.random() * 300);
        const victims = done ? [] : ranksOf(job.child.pid as number);
        if (victims.length === 0) continue; // at the end
        process.kill(victims[Math.floor(Math.random() * victims.length)], 'SIGKILL');
        kills++;
        while (restarts() < kills && !done) await pause(5);
        last = newest();
      }
      const { code, output } = await job.ended;
      expect(code, output).toBe(0);
      expect(restarts(), output).toBe(kills);
      expect(bits(out)).toEqual(bits(calm));
      const rows = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trim().split('\n');
      const learned = rows.map((row) => JSON.parse(row)).filter((row) => 'loss' in row);
      expect(learned.map((row) => row.step)).toEqual(Array.from({ length: steps }, (_, i) => i + 1));
      rmSync(out, { recursive: true });
    }
  });
});
