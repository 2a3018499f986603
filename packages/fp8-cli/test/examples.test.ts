// The examples, as a user runs them.
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { fp8lm } from './command.ts';

const folder = fileURLToPath(new URL('../../../examples/', import.meta.url));

/** What each prints: the ranks it runs on, its arguments, lines that must be there. */
const examples: Record<string, [nproc: number, args: string[], expected: RegExp[]]> = {
  'tensor_parallel_layer.ts': [2, [], [/rank 1 of 2: up.weight \[128,64\] of \[256,64\].* below 1e-6/]],
  'parallel_model.ts': [4, [], [/tp 2 x dp 2, step 1: loss 3\.9/, /tp 2 x dp 2, step 40: loss 0\./]],
  'train_2x2x2.ts': [8, ['2'], [/step 2: loss [45]\./, /tp 2 x dp 2 x pp 2: \d+ parameters, held-out loss \d/]],
};

test('every example is run here', () => {
  const files = readdirSync(folder).filter((name) => name.endsWith('.ts'));
  expect(files.toSorted()).toEqual(Object.keys(examples).toSorted());
});

for (const [name, [nproc, args, expected]] of Object.entries(examples)) {
  test(`${name} on ${nproc} ranks`, async () => {
    const command = [process.execPath, '--import', 'tsx', '--conditions=source', folder + name, ...args];
    const { code, stdout, stderr } = await fp8lm('launch', '--nproc', `${nproc}`, '--', ...command);
    expect(code, stderr).toBe(0);
    for (const line of expected) expect(stdout).toMatch(line);
  }, 300_000);
}
