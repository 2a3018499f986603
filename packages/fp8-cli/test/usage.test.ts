import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { presets } from 'fp8-models';
import { expect, test } from 'vitest';
import { expectRefused, bin, fp8lm, ownFolder, tinyRun } from './command.ts';

const folder = ownFolder();
const tiny = tinyRun(folder);
const file = (name: string, content: string | Uint8Array): string => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};

test.each([
  [[]],
  [['train']],
  [['compare']],
  [['generate']],
  [['import']],
  [['export']],
  [['bench']],
  [['bench', 'gemm']],
  [['bench', 'step']],
  [['bench', 'kernels']],
  [['bench', 'allreduce']],
  [['schedule']],
  [['doctor']],
])('help of %j has examples', async (command) => {
  const { code, stdout, stderr } = await fp8lm(...command, '--help');
  expect(stdout).toContain('Examples:\n  fp8lm ');
  expect(stderr).toBe('');
  expect(code).toBe(0);
});

test.skipIf(process.platform !== 'linux')(
  'too few files that may be opened are named before anything needs them',
  () => {
    const command = `ulimit -n 64 && exec ${process.execPath} ${bin} train gpt-nano --steps 1`;
    const { status, stdout, stderr } = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
    expect(stderr).toBe(
      'fp8lm: may open 64 files only, and needs 256; raise the limit, for example with `ulimit -n 1024`\n',
    );
    expect(stdout).toBe('');
    expect(status).toBe(2);
  },
);

test('launch hands everything after -- to the ranks and passes their exit code on', async () => {
  const script = file('rank.mjs', 'console.log(`rank ${process.env.RANK} of ${process.env.WORLD_SIZE}`);');
  const { code, stdout } = await fp8lm('launch', '--nproc', '2', '--', process.execPath, script);
  expect(stdout).toContain('rank 0 of 2');
  expect(stdout).toContain('rank 1 of 2');
  expect(code).toBe(0);
  expect((await fp8lm('launch', '--nproc', 'two', '--', 'true')).code).toBe(2);
});

test('schedule draws a row a rank, and refuses what cannot be with the numbers', async () => {
  const { code, stdout } = await fp8lm('schedule', '--pp', '4', '--microbatches', '8');
  expect(code).toBe(0);
  expect(stdout).toMatch(/rank 3 {2}\| · {3}· {3}· {3}0 {2}\( {2}0 {3}\)/);
  expect(stdout).toContain('(pp - 1) / (m + pp - 1) = 27.3 %');
  const svg = join(folder, 'timeline.svg');
  const json = await fp8lm('schedule', '--pp', '2', '--microbatches', '4', '--virtual', '2', '--json', '--svg', svg);
  const parsed = JSON.parse(json.stdout);
  expect(parsed.idleShare).toBeCloseTo(1 / 9, 12);
  expect(parsed.ranks[0].instructions[0]).toEqual({ op: 'forward', micro: 0, chunk: 0 });
  expect(readFileSync(svg, 'utf8')).toContain('</svg>');
  const refused = await fp8lm('schedule', '--pp', '4', '--microbatches', '6', '--virtual', '2');
  expect(refused.code).toBe(2);
  expect(refused.stderr).toMatch(/6 micro-batches in groups of 4 leave 2 on 4 stages/);
});

test('help of train names every preset', async () => {
  const { stdout } = await fp8lm('train', '--help');
  for (const name of Object.keys(presets)) expect(stdout.split(/\s+/)).toContain(name);
});

test('--version is that of the package', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  expect((await fp8lm('--version')).stdout).toBe(`${version}\n`);
});

const empty = file('empty.txt', '');
const binary = file(
  'binary.txt',
  new Uint8Array(5000).map((_, i) => (i * 7919) % 256),
);
const short = file('short.txt', 'too short');
const badJson = file('bad.json', '{"steps": 3,');
const badType = file('list.json', '[1, 2]');
const noDefault = file('named.mjs', 'export const run = {};');
const noPackage = file('import.ts', "import x from 'not-there';\nexport default x;");
const throws = file('throws.ts', "throw new Error('no luck');");
const oddKey = file('odd.json', '{"stesp": 3}');

test.each<[args: string[], line: RegExp]>([
  [['trian'], /unknown command 'trian'.*train/],
  [['train', '--stpes', '3'], /unknown option '--stpes'.*--steps/],
  [['train', 'a', 'b'], /too many arguments/],
  [['train', 'gpt-nan'], /preset "gpt-nan" is unknown; did you mean gpt-nano\?/],
  [['train', '--recipe', 'o9'], /recipe "o9" is unknown; did you mean o/],
  [['train', '--device', 'tpu'], /--device.*tpu.*auto, cpu, cuda, ref/],
  [['train', '--device', 'cuda'], /device cuda: .*--device cpu/],
  [['train', '--steps', 'many'], /--steps.*'many' is invalid.*not a number/],
  [['train', '--steps', '0'], /--steps.*'0' is invalid.*>= 1/],
  [['train', '--steps', '1.5'], /--steps.*'1.5' is invalid.*whole number/],
  [['train', '--lr', '-1'], /--lr.*'-1' is invalid/],
  [['train', '--lr', '0'], /lr is 0; need a number above 0/],
  [['train', '--val-fraction', '2'], /--val-fraction.*'2' is invalid/],
  [['train', '--seq', '4096'], /seq 4096 exceeds the model's 128/],
  [['train', '--dropout', '1'], /dropout/],
  [['train', '--data', 'random', '--tp', '3'], /numHeads \d+ is not a multiple of tensor parallel size 3/],
  [['train', '--data', 'random', '--sp'], /sp: .*tp 1/],
  [
    ['train', '--nproc', '3', '--dp', '2'],
    /world size 3 = tp 1 x pp 1 x dp 2 does not hold: the product is 2; use --nproc 2/,
  ],
  [['train', '--zero'], /--zero: there is one rank/],
  [['train', '--max-restarts', '2'], /--max-restarts: without --out there is no checkpoint/],
  [['train', '--zero', '3', '--nproc', '2'], /--zero.*0 to 2/],
  [['compare', '--nproc', '2'], /compare --nproc: .*one process/],
  [['compare', '--pp', '2'], /compare --pp: .*one process/],
  [['train', '--resume'], /resume needs out/],
  [['train', '--set', 'weightDcay=0.1'], /"weightDcay" is unknown; did you mean weightDecay\?/],
  [['train', '--set', 'model.numLayer=2'], /"numLayer" is unknown; did you mean numLayers\?/],
  [['train', '--set', 'model.numHeads=3'], /hiddenSize 128 is not a multiple of numHeads 3/],
  [['train', '--set', 'lr'], /need key=value/],
  [['train', '--set', 'lr=fast'], /lr=fast: need a number/],
  [['train', '--set', 'betas=0.9'], /betas=0.9: need 2 numbers/],
  [['train', 'missing.ts'], /run file missing.ts: no such file/],
  [['train', badJson], /bad.json is not valid JSON/],
  [['train', badType], /list.json: it holds an array/],
  [['train', noDefault], /named.mjs: it has no default export/],
  [['train', noPackage], /import.ts: Cannot find package 'not-there'/],
  [['train', throws], /throws.ts: no luck/],
  [['train', oddKey], /"stesp" is unknown; did you mean steps\?/],
  [['train', tiny, '--data', join(folder, 'nowhere')], /nowhere.*does not exist/],
  [['train', tiny, '--data', empty], /empty.txt is empty/],
  [['train', tiny, '--data', binary], /binary.txt is not UTF-8 text/],
  [['train', tiny, '--data', short], /tokens/],
  [['train', tiny, '--tokenizer', join(folder, 'nowhere')], /nowhere/],
  [['train', tiny, '--out', join(empty, 'below')], /empty.txt.*(not a folder|no folder)/],
  [['generate', '--prompt', 'x'], /required option '--checkpoint/],
  [['generate', '--checkpoint', folder, '--prompt', 'x'], /no checkpoint|checkpoint/],
  [['generate', '--checkpoint', folder, '--prompt', 'x', '--temperature', '-1'], /--temperature.*'-1' is invalid/],
  [['compare', '--recipes', 'bf16,o8'], /recipe "o8" is unknown/],
  [['compare', '--recipes', ','], /name at least one/],
  [['bench', 'gemm', '--m', '64', '--n', '64'], /required option '--k/],
  [['bench', 'gemm', '--m', '64', '--n', '64', '--k', '64', '--in', 'int8'], /--in.*int8/],
  [['bench', 'step', '--preset', 'gpt-13m'], /preset "gpt-13m" is unknown; did you mean gpt-12m\?/],
])('%j is refused with one line and exit code 2', expectRefused);
