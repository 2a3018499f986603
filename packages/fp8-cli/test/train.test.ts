import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isCpuBackendBuilt } from 'cpu-backend';
import { describe, expect, test } from 'vitest';
import { finish, fp8lm, jsonLines, ownFolder, start, tinyRun } from './command.ts';

const folder = ownFolder();
const tiny = tinyRun(folder);
const path = (name: string): string => join(folder, name);
const readJson = (file: string) => JSON.parse(readFileSync(file, 'utf8'));
const metrics = (out: string) => jsonLines(readFileSync(join(out, 'metrics.jsonl'), 'utf8'));

describe('train --json', () => {
  test('prints steps from 1, evaluations and the summary, each with the agreed keys, and nothing else', async () => {
    const { code, stdout, stderr } = await fp8lm('train', tiny, '--json', '--eval-every', '3');
    expect(code).toBe(0);
    const rows = jsonLines(stdout);
    expect(
      rows.map((row) => ('summary' in row ? 'summary' : 'valLoss' in row ? `eval ${row.step}` : row.step)),
    ).toEqual([1, 2, 3, 'eval 3', 4, 5, 6, 'eval 6', 'summary']);
    expect(Object.keys(rows[0])).toEqual(['step', 'loss', 'gradNorm', 'lr', 'tokens', 'stepMs', 'tokensPerSecond']);
    expect(rows[0].tokens).toBe(2 * 32);
    expect(Object.keys(rows[3])).toEqual(['step', 'valLoss']);
    expect(rows.at(-1)).toEqual({
      summary: {
        recipe: 'o2',
        params: expect.any(Number),
        tokensPerSecond: expect.any(Number),
        lossFirst: rows[0].loss,
        lossLast: rows[6].loss,
        valLoss: rows[7].valLoss,
        memory: {
          weights: expect.any(Number),
          gradients: expect.any(Number),
          optimizer: expect.any(Number),
          activationsPeak: expect.any(Number),
          totalPeak: expect.any(Number),
        },
        comm: { bytesSent: 0, bytesReceived: 0 },
      },
    });
    expect(stderr).not.toContain('{');
  });

  test('random tokens have no evaluation', async () => {
    const { code, stdout } = await fp8lm(
      'train',
      tiny,
      '--data',
      'random',
      '--steps',
      '2',
      '--json',
      '--recipe',
      'bf16',
    );
    expect(code).toBe(0);
    const rows = jsonLines(stdout);
    expect(rows).toHaveLength(3);
    expect(rows[2].summary).toMatchObject({ recipe: 'bf16', valLoss: null });
  });

  test('a reader that goes away is no error message', async () => {
    const child = start(['train', tiny, '--json', '--steps', '100000']);
    child.stdout.once('data', () => child.stdout.destroy());
    const { code, stderr } = await finish(child);
    expect(code).toBe(141);
    expect(stderr).toBe('');
  });
});

describe('a run folder', () => {
  test('holds what a resumed run needs: it goes on to the bits of a run that never stopped', async () => {
    const [whole, halves] = [path('whole'), path('halves')];
    const half = ['--out', halves, '--eval-every', '2', '--schedule', 'constant', '--warmup', '0'];
    const run = ['train', tiny, '--out', whole, '--eval-every', '2', '--schedule', 'constant', '--warmup', '0'];
    expect((await fp8lm(...run)).code).toBe(0);
    expect((await fp8lm('train', tiny, ...half, '--steps', '3')).code).toBe(0);
    // Without repeating any other flag: the folder's own configuration counts.
    const { code, stdout } = await fp8lm('train', '--out', halves, '--resume', '--steps', '6', '--json');
    expect(code).toBe(0);
    expect(jsonLines(stdout)[0].step).toBe(4);
    const losses = (out: string) =>
      metrics(out).flatMap(({ step, loss }) => (loss === undefined ? [] : [[step, loss]]));
    expect(losses(halves)).toEqual(losses(whole));
    expect(losses(halves)).toHaveLength(6);
  });

  test('has the resolved configuration as a run file, the environment and a report', async () => {
    const out = path('kept');
    const { code, stdout } = await fp8lm('train', tiny, '--out', out, '--set', 'betas=0.8,0.9', '--lr', '2e-3');
    expect(code).toBe(0);
    expect(readJson(join(out, 'config.json'))).toMatchObject({ steps: 6, betas: [0.8, 0.9], lr: 2e-3, recipe: 'o2' });
    expect(readJson(join(out, 'env.json'))).toMatchObject({ node: process.version });
    expect(readFileSync(join(out, 'report.html'), 'utf8')).toContain('<html');
    expect(stdout).toContain('report.html');
    const again = await fp8lm('train', join(out, 'config.json'), '--out', path('again'), '--json');
    expect(again.code).toBe(0);
    expect(metrics(path('again')).map(({ loss }) => loss)).toEqual(metrics(out).map(({ loss }) => loss));
  });

  test('keeps its checkpoint when a later one is cut short, and says so', async () => {
    const out = path('damaged');
    expect((await fp8lm('train', tiny, '--out', out, '--save-every', '3')).code).toBe(0);
    truncateSync(join(out, 'step-6', 'model.safetensors'), 100);
    const { code, stderr } = await fp8lm('train', '--out', out, '--resume', '--json');
    expect(stderr).toMatch(/step-6.*trying the checkpoint before/);
    expect(code).toBe(0);
    truncateSync(join(out, 'step-3', 'model.safetensors'), 100);
    const generated = await fp8lm('generate', '--checkpoint', join(out, 'step-3'), '--prompt', 'x');
    expect(generated).toMatchObject({ code: 2, stdout: '' });
    expect(generated.stderr).toMatch(/^fp8lm: [^\n]*step-3[^\n]*\n$/);
  });

  test('Ctrl-C finishes the step, saves and exits with 130', async () => {
    const out = path('stopped');
    const child = start(['train', tiny, '--steps', '1000000', '--out', out, '--json']);
    child.stdout.once('data', () => child.kill('SIGINT'));
    const { code, stdout } = await finish(child);
    expect(code).toBe(130);
    const rows = jsonLines(stdout);
    const lastStep = rows.at(-2)?.step;
    expect(existsSync(join(out, `step-${lastStep}`, 'model.safetensors'))).toBe(true);
    expect(metrics(out).at(-1)?.step).toBe(lastStep);
  });
});

describe('a run file', () => {
  const run = readJson(tiny);

  test('in TypeScript makes its run; flags and --set go before it', async () => {
    const file = path('run.ts');
    writeFileSync(
      file,
      `const steps: number = 2;\nexport default { ...(${JSON.stringify(run)} as object), steps, recipe: 'bf16' };\n`,
    );
    const plain = jsonLines((await fp8lm('train', file, '--json')).stdout);
    expect(plain.at(-1)?.summary).toMatchObject({ recipe: 'bf16' });
    expect(plain.filter((row) => 'loss' in row)).toHaveLength(2);
    const changed = jsonLines((await fp8lm('train', file, '--json', '--recipe', 'te', '--set', 'steps=3')).stdout);
    expect(changed.at(-1)?.summary).toMatchObject({ recipe: 'te' });
    expect(changed.filter((row) => 'loss' in row)).toHaveLength(3);
  });
});

test('generate writes the same text for the same seed, streamed or as JSON', async () => {
  const out = path('writer');
  expect((await fp8lm('train', tiny, '--out', out, '--steps', '2')).code).toBe(0);
  const ask = [
    'generate',
    '--checkpoint',
    out,
    '--prompt',
    'The ',
    '--max-tokens',
    '12',
    '--seed',
    '5',
    '--top-k',
    '40',
  ];
  const [first, second, json] = await Promise.all([fp8lm(...ask), fp8lm(...ask), fp8lm(...ask, '--json')]);
  expect(first).toMatchObject({ code: 0, stderr: '' });
  expect(second.stdout).toBe(first.stdout);
  const [object] = jsonLines(json.stdout);
  expect(`The ${object.text}\n`).toBe(first.stdout);
  expect(object).toMatchObject({ prompt: 'The ' });
  expect(object.tokens).toBeGreaterThan(0);
  expect(object.tokens).toBeLessThanOrEqual(12); // fewer where the end of the text is drawn
});

test('compare trains each recipe and sets the summaries side by side', async () => {
  const out = path('compared');
  const { code, stdout } = await fp8lm('compare', tiny, '--recipes', 'bf16,o2', '--out', out, '--json');
  expect(code).toBe(0);
  const rows = jsonLines(stdout);
  expect(new Set(rows.slice(0, -1).map(({ recipe }) => recipe))).toEqual(new Set(['bf16', 'o2']));
  const { comparison, sample, report } = rows.at(-1) as unknown as Record<string, Record<string, object>>;
  expect(Object.keys(comparison)).toEqual(['bf16', 'o2']);
  expect(comparison.o2).toMatchObject({ recipe: 'o2', valLoss: expect.any(Number) });
  expect(typeof sample).toBe('string');
  expect(report).toBe(join(out, 'report.html'));
  expect(existsSync(join(out, 'report.html'))).toBe(true);
});

describe('bench', () => {
  test.runIf(isCpuBackendBuilt()).each(['e4m3', 'bf16', 'f32'])(
    'gemm of %s sets its speed beside the peak',
    async (dtype) => {
      const shape = ['--m', '128', '--n', '192', '--k', '64', '--seconds', '0.05'];
      const { code, stdout } = await fp8lm('bench', 'gemm', ...shape, '--in', dtype, '--json');
      expect(code).toBe(0);
      const [{ gflops, peakGflops, fractionOfPeak }] = jsonLines(stdout) as unknown as Record<string, number>[];
      expect(gflops).toBeGreaterThan(0);
      expect(fractionOfPeak).toBeCloseTo(gflops / peakGflops, 10);
    },
  );

  test('step takes a step apart: its phases add up', async () => {
    const args = [
      '--preset',
      'gpt-nano',
      '--recipe',
      'bf16',
      '--batch',
      '1',
      '--seq',
      '8',
      '--steps',
      '1',
      '--warmup',
      '0',
    ];
    const { code, stdout } = await fp8lm('bench', 'step', ...args, '--json');
    expect(code).toBe(0);
    const [{ stepMs, phases, tokensPerSecond }] = jsonLines(stdout) as unknown as {
      stepMs: number;
      phases: Record<string, number>;
      tokensPerSecond: number;
    }[];
    expect(Object.keys(phases)).toEqual(['forward', 'backward', 'pipeline', 'exchange', 'optimizer', 'other']);
    expect(Object.values(phases).reduce((a, b) => a + b)).toBeCloseTo(stepMs, 6);
    expect(tokensPerSecond).toBeCloseTo(8000 / stepMs, 6);
  });
});

test('doctor says of everything what it is and what to do, and exits by whether training works', async () => {
  const { code, stdout } = await fp8lm('doctor', '--json');
  const [{ ok, checks }] = jsonLines(stdout) as unknown as {
    ok: boolean;
    checks: { name: string; state: string; found: string; advice?: string }[];
  }[];
  expect(code).toBe(ok ? 0 : 1);
  expect(ok).toBe(checks.every(({ state }) => state !== 'missing'));
  for (const { state, advice } of checks) if (state !== 'ok') expect(advice).toBeTruthy();
  expect(checks.map(({ name }) => name)).toEqual(
    expect.arrayContaining(['Node', 'C++ compiler', 'CPU backend', 'disk']),
  );
});
