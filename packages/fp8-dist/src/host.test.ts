import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { hostId, makeSocketFolder } from './host.ts';

const root = mkdtempSync(join(tmpdir(), 'fp8-host-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A folder of sockets as a process leaves it. */
function leave(name: string, owner: string | null): string {
  const folder = join(root, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'd0'), '');
  if (owner !== null) writeFileSync(join(folder, 'owner'), owner);
  return folder;
}

test('what a killed process left is removed, and nothing else', () => {
  const { pid: gone } = spawnSync(process.execPath, ['-e', '']);
  const left = leave('fp8lm-left', `${gone}\n${hostId()}\n`);
  const kept = [
    leave('fp8lm-live', `${process.pid}\n${hostId()}\n`),
    leave('fp8lm-elsewhere', `${gone}\nanother machine\n`),
    leave('fp8lm-unnamed', null),
    leave('fp8lm-unreadable', 'x'),
    leave('other', `${gone}\n${hostId()}\n`),
  ];
  const made = makeSocketFolder(root);
  expect(existsSync(left)).toBe(false);
  expect(kept.filter((folder) => !existsSync(folder))).toEqual([]);
  expect(existsSync(made)).toBe(true);
  makeSocketFolder(root);
  expect(existsSync(made)).toBe(true);
});
