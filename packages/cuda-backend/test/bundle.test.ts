// The bundle, unpacked elsewhere: with its own Node and nothing of this folder it runs kernel cases on the simulated device.
// Packing takes a while, so only with BUNDLE=1 (after `npm run build`).
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { simulator } from './simulator.ts';

it.skipIf(process.env.BUNDLE !== '1')('the bundle is under 60 MB and runs by itself', () => {
  expect(simulator().reason).toBe('');
  const folder = mkdtempSync(join(tmpdir(), 'fp8lm-unpacked-'));
  try {
    const script = fileURLToPath(new URL('../../../tools/bundle.mjs', import.meta.url));
    const packed = spawnSync(process.execPath, [script, '--out', folder], { encoding: 'utf8' });
    expect(packed.status, packed.stderr).toBe(0);
    const archive = join(folder, readdirSync(folder).find((name) => name.endsWith('.tar.gz')) ?? '');
    expect(statSync(archive).size).toBeLessThan(60e6);
    expect(spawnSync('tar', ['-xzf', archive, '-C', folder]).status).toBe(0);
    // Neither this repository nor a Node of the system: PATH is empty.
    const run = (file: string, ...args: string[]) =>
      spawnSync('/bin/sh', [join(folder, 'fp8lm', file), ...args], {
        encoding: 'utf8',
        cwd: folder,
        env: { PATH: '/bin', FP8_CUDA: 'sim', HOME: folder },
      });
    const checked = run('check', 'quantize');
    expect(checked.stdout, checked.stderr).toMatch(/^\d+ passed, 0 failed$/m);
    const flags = ['--device', 'cuda', '--data', 'random', '--steps', '2', '--batch', '1', '--seq', '8'];
    const trained = run('fp8lm.sh', 'train', 'gpt-nano', ...flags, '--json');
    expect(trained.stdout, trained.stderr).toMatch(/"summary"/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
