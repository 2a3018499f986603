// Ranks started by Slurm's srun and by Open MPI's mpirun, of Debian's packages slurm-wlm and openmpi-bin. Skipped, with a line that
// says so, where they are missing. By hand: docs/launch.md.
import { spawn, spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { leftovers, ownTmp } from '../jobs.ts';

const has = (command: string): boolean => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0;
const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const root = process.getuid?.() === 0;
const loop = [process.execPath, '--import', 'tsx', '--conditions=source', file('../ranks/loop.ts')];

const starters = [
  {
    name: 'srun',
    missing: ['srun', 'slurmctld', 'slurmd', 'munged'].filter((c) => !has(c)),
    needsRoot: true,
    // A cluster of one node for the time of the command.
    command: [file('../../../../tools/clusters/slurm.sh'), 'srun', '--ntasks=4', '--overcommit', '--quiet'],
  },
  {
    name: 'mpirun',
    missing: ['mpirun'].filter((c) => !has(c)),
    needsRoot: false,
    command: ['mpirun', ...(root ? ['--allow-run-as-root'] : []), '--oversubscribe', '-n', '4'],
  },
];

afterAll(() => {
  expect(leftovers()).toEqual([]);
  rmSync(ownTmp, { recursive: true, force: true });
});

interface Ended {
  code: number | null;
  lines: Record<string, unknown>[];
  err: string;
}

function start(command: readonly string[], env: Record<string, string>): Promise<Ended> {
  const child = spawn(command[0], command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '', FP8_TIMEOUT_MS: '30000', ...env },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (d) => {
    out += d;
  });
  child.stderr.on('data', (d) => {
    err += d;
  });
  // Ends the cluster too, which a test that runs out of time would leave behind.
  const limit = setTimeout(() => child.kill('SIGTERM'), 200_000);
  return new Promise((resolve) => {
    child.on('close', (code) => {
      clearTimeout(limit);
      const lines = out
        .split('\n')
        .filter((l) => l.startsWith('{'))
        .map((l) => JSON.parse(l));
      resolve({ code, lines, err });
    });
  });
}

for (const { name, missing, needsRoot, command } of starters) {
  const why = missing.length ? `${missing.join(', ')} not installed` : needsRoot && !root ? 'not root' : null;
  if (why) console.log(`skipped: ${name}: ${why}`);
  describe.skipIf(why)(`ranks started by ${name}`, { timeout: 240_000 }, () => {
    it('find each other and end together', async () => {
      const { code, lines, err } = await start([...command, ...loop], { LOOP_STEPS: '20' });
      expect(code, err).toBe(0);
      const ends = lines.filter((l) => 'finished' in l);
      expect(ends.map((l) => l.finished).sort()).toEqual([0, 1, 2, 3]);
      expect(new Set(ends.map((l) => l.digest)).size).toBe(1);
    });

    it("name the one that ends early, whose exit code is the job's", async () => {
      const { code, lines, err } = await start([...command, ...loop], { LOOP_ENDS: '2:8:41' });
      expect(code, err).toBe(41);
      const failures = lines.filter((l) => 'failed' in l);
      expect(failures.length).toBeGreaterThan(0);
      for (const f of failures) expect(f.ranks, `${f.message}`).toEqual([2]);
    });
  });
}
