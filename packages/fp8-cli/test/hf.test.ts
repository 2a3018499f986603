import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from 'vitest';
import { expectRefused, fp8lm, jsonLines, ownFolder, tinyRun } from './command.ts';

const folder = ownFolder();
const tiny = tinyRun(folder);
const path = (name: string): string => join(folder, name);
const readJson = (...parts: string[]) => JSON.parse(readFileSync(join(...parts), 'utf8'));
const llama = fileURLToPath(new URL('../../fp8-train/test/golden/hf/llama', import.meta.url));

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await fp8lm(...args);
  expect({ code, stderr: code ? stderr : '' }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

const write = (checkpoint: string): Promise<string> =>
  ok('generate', '--checkpoint', checkpoint, '--prompt', 'The quick', '--max-tokens', '20', '--seed', '3');
const losses = (stdout: string): number[] => jsonLines(stdout).flatMap(({ loss }) => loss ?? []);

beforeAll(async () => {
  await ok('train', tiny, '--recipe', 'fp32', '--steps', '40', '--lr', '1e-2', '--out', path('run'));
  await ok('export', path('run'), '--out', path('model'));
});

test('an exported model is a Hugging Face folder, and writes what its run writes, imported or read in place', async () => {
  expect(readJson(path('model'), 'config.json')).toMatchObject({
    architectures: ['GPT2LMHeadModel'],
    vocab_size: 260,
    eos_token_id: 256,
    torch_dtype: 'float32',
  });
  expect(readJson(path('model'), 'generation_config.json')).toMatchObject({ eos_token_id: 256 });
  expect(readJson(path('model'), 'tokenizer_config.json')).toMatchObject({ eos_token: '<|endoftext|>' });
  const imported = await ok('import', path('model'), '--out', path('imported'), '--json');
  expect(jsonLines(imported)).toEqual([
    {
      architecture: 'GPT2LMHeadModel',
      params: expect.any(Number),
      dtypes: ['F32'],
      tokenizer: 257,
      path: join(path('imported'), 'step-0'),
      numBytes: expect.any(Number),
    },
  ]);
  const text = await write(path('run'));
  expect(await write(path('model'))).toBe(text);
  expect(await write(path('imported'))).toBe(text);
});

test('train --init starts from the weights, in the recipe asked for, and --resume of an import does the same', async () => {
  const data = ['--data', path('text.txt'), '--batch', '2', '--steps', '2', '--recipe', 'o2', '--eval-batches', '1'];
  const tuned = await ok('train', '--init', path('model'), ...data, '--out', path('tuned'), '--json');
  const [first] = losses(tuned);
  // Random weights have ln 260 = 5.56.
  expect(first).toBeLessThan(4);
  expect(readJson(path('tuned'), 'config.json')).toMatchObject({ init: path('model'), model: { vocabSize: 260 } });
  await ok('import', path('model'), '--out', path('going-on'));
  const resumed = await ok('train', '--resume', '--out', path('going-on'), ...data, '--json');
  expect(losses(resumed)).toEqual(losses(tuned));
  // And from a checkpoint of ours: the masters of the fp32 run are the same numbers.
  expect(losses(await ok('train', '--init', path('run'), ...data, '--json'))).toEqual(losses(tuned));
  rmSync(path('model'), { recursive: true });
  expect(losses(await ok('train', '--resume', '--out', path('tuned'), '--steps', '3', '--json'))).toHaveLength(1);
});

test('ranks in other layouts start from the same weights', async () => {
  const run = [
    'train',
    '--init',
    llama,
    '--data',
    'random',
    '--recipe',
    'fp32',
    '--steps',
    '1',
    '--batch',
    '2',
    '--json',
  ];
  const [alone] = losses(await ok(...run, '--grad-accum', '2'));
  // Random weights of a fresh run have ln 61 = 4.11; these are larger.
  expect(alone).toBeGreaterThan(4.5);
  const [cut] = losses(await ok(...run, '--grad-accum', '2', '--tp', '2', '--pp', '2', '--zero'));
  expect(Math.abs(cut / alone - 1)).toBeLessThan(1e-5);
});

test.each<[args: string[], line: RegExp]>([
  [['import', 'nowhere', '--out', path('x')], /nowhere is neither a run nor a Hugging Face model/],
  [['import', llama], /required option '--out/],
  [['export', path('run'), '--out', path('run')], /run is not an empty folder; choose another one/],
  [['export', path('run'), '--out', path('x'), '--dtype', 'fp8'], /--dtype.*fp8.*f32, bf16, f16/],
  [['export', path('run'), '--out', tiny], /tiny.json is not an empty folder; choose another one/],
  [['export', 'nowhere', '--out', path('x')], /nowhere/],
  [['generate', '--checkpoint', llama, '--prompt', 'x'], /has no tokenizer \(its folder had no tokenizer.json\)/],
  [['train', '--init', llama, '--dp', '2'], /llama has no tokenizer; give one with --tokenizer/],
  [['train', '--init', llama], /llama has no tokenizer; give one with --tokenizer/],
  [
    ['train', 'gpt-nano', '--init', llama, '--data', 'random'],
    /llama is another model than this run's: .*numLayers 2, not 4/,
  ],
  [['train', '--init', llama, '--data', 'random', '--seq', '32'], /seq 32 exceeds the model's 16 positions/],
])('%j is refused with one line and exit code 2', async (args, line) => {
  await expectRefused(args, line);
  expect(existsSync(path('x'))).toBe(false);
});
