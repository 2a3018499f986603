import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { latestCheckpoint, writeCheckpoint } from './checkpoint.ts';
import { readCheckpoint } from './read_checkpoint.ts';

/**
 * A killed process leaves the folder as it is between two system calls, or in the middle of a write. So the folder is
 * copied before each call of a save, and half-way through each write; each copy must hold a whole checkpoint and
 * accept the next save.
 */
const CALLS = ['openSync', 'writeSync', 'fsyncSync', 'closeSync', 'renameSync', 'mkdirSync', 'rmSync'] as const;
const original = { ...fs };

function restore(): void {
  for (const call of CALLS) (fs as unknown as Record<string, unknown>)[call] = original[call];
  syncBuiltinESMExports();
}

let root: string;
beforeEach(() => {
  root = original.mkdtempSync(join(tmpdir(), 'crash-'));
});
afterEach(() => {
  restore();
  original.rmSync(root, { recursive: true });
});

const stateAt = (step: number) => [
  {
    name: 'model.safetensors',
    tensors: ['a', 'b'].map((name) => ({
      name,
      dtype: 'U8' as const,
      shape: [5000],
      bytes: () => new Uint8Array(5000).fill(step),
    })),
  },
];
const save = (dir: string, step: number, keep = 2) =>
  writeCheckpoint(dir, step, stateAt(step), { trainer: { step } }, { keep });

/** Runs a save and gives a copy of the folder for each place where the process could have been killed. */
function crashStates(dir: string, run: () => void): { at: string; dir: string }[] {
  const states: { at: string; dir: string }[] = [];
  const snapshot = (at: string) => {
    const copy = join(root, `state-${states.length}`);
    restore();
    original.cpSync(dir, copy, { recursive: true });
    install();
    states.push({ at, dir: copy });
  };
  const install = () => {
    for (const call of CALLS) {
      const real = original[call] as (...args: unknown[]) => unknown;
      (fs as unknown as Record<string, unknown>)[call] = (...args: unknown[]) => {
        snapshot(`before ${call} ${typeof args[0] === 'string' ? args[0].replace(dir, '') : ''}`);
        if (call !== 'writeSync') return real(...args);
        const [fd, bytes, offset = 0, length = bytes.length] = args as [number, Uint8Array, number?, number?];
        const half = original.writeSync(fd, bytes, offset, length >> 1);
        snapshot('in the middle of writeSync');
        return half + original.writeSync(fd, bytes, offset + half, length - half);
      };
    }
    syncBuiltinESMExports();
  };
  install();
  try {
    run();
  } finally {
    restore();
  }
  return states;
}

describe('a process killed at any point of a save', () => {
  it.each([
    ['a new step', [1, 2], 3, [2, 3]],
    ['the same step again', [1, 2], 2, [1, 2]],
    ['an earlier step, after a resume', [5, 9], 6, [5, 9, 6]],
  ])('leaves a whole checkpoint, and the next save works: %s', (_, before, step, allowed) => {
    const dir = join(root, 'run');
    for (const earlier of before) save(dir, earlier);
    const states = crashStates(dir, () => save(dir, step));
    expect(states.length).toBeGreaterThan(30);
    let sawOld = false;
    for (const state of states) {
      const read = readCheckpoint(state.dir, { verify: true });
      expect(allowed, state.at).toContain(read.step);
      expect(read.json.trainer).toEqual({ step: read.step });
      expect(read.tensor('b').bytes[4999]).toBe(read.step);
      read.close();
      sawOld ||= read.step !== step;
      save(state.dir, 20);
      expect(latestCheckpoint(state.dir)?.step).toBe(20);
      const left = original.readdirSync(state.dir).filter((name) => !/^(latest|step-\d+)$/.test(name));
      expect(left, state.at).toEqual([]);
    }
    if (step !== 2) expect(sawOld).toBe(true);
    const after = readCheckpoint(dir, { verify: true });
    expect(after.step).toBe(step);
    after.close();
  });

  it('leaves nothing but leftovers when it was the first save', () => {
    const dir = join(root, 'run');
    original.mkdirSync(dir);
    for (const state of crashStates(dir, () => save(dir, 1))) {
      const found = latestCheckpoint(state.dir);
      if (found !== undefined) readCheckpoint(state.dir, { verify: true }).close();
      save(state.dir, 2);
      expect(readCheckpoint(state.dir, { verify: true }).step).toBe(2);
    }
  });
});
