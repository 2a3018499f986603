// Runs the real command as a process of its own.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect } from 'vitest';

export const bin = fileURLToPath(new URL('../bin/fp8lm.mjs', import.meta.url));

export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

export function start(args: readonly string[], cwd?: string) {
  // Ranks on a machine that is busy with other tests may be silent for long.
  const env = { ...process.env, NO_COLOR: '1', FP8_DEBUG: '', FP8_DEAD_AFTER_MS: '30000' };
  return spawn(process.execPath, [bin, ...args], { cwd, env });
}

export function finish(child: ReturnType<typeof start>): Promise<Finished> {
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr })));
}

export const fp8lm = (...args: string[]): Promise<Finished> => finish(start(args));

/** A mistake of the user's: one line on stderr, which `line` matches, nothing on stdout, exit code 2. */
export async function expectRefused(args: readonly string[], line: RegExp): Promise<void> {
  const { code, stdout, stderr } = await fp8lm(...args);
  expect(stderr).toMatch(/^fp8lm: [^\n]+\n$/);
  expect(stderr).toMatch(line);
  expect(stdout).toBe('');
  expect(code).toBe(2);
}

/** The objects of `--json`; throws if a line is not JSON. */
export const jsonLines = (stdout: string): Record<string, never>[] =>
  stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));

/** A folder of the test file's own, removed at its end. */
export function ownFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fp8lm-cli-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A run file of a model that trains a step in milliseconds, and its text. */
export function tinyRun(folder: string): string {
  const text = join(folder, 'text.txt');
  writeFileSync(text, 'The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n'.repeat(100));
  const model = { vocabSize: 260, maxSeqLen: 32, numLayers: 1, numHeads: 2, numKvHeads: 2, hiddenSize: 32 };
  const kind = { ffnSize: 64, position: 'learned', ropeTheta: 1e4, norm: 'layer', activation: 'gelu' };
  const rest = { bias: true, tied: true, dropout: 0, normEps: 1e-5 };
  const path = join(folder, 'tiny.json');
  const run = {
    model: { ...model, ...kind, ...rest },
    data: text,
    tokenizer: 'byte',
    batch: 2,
    steps: 6,
    evalBatches: 1,
  };
  writeFileSync(path, JSON.stringify(run));
  return path;
}
