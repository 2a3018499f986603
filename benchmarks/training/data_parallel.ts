// What data parallelism and ZeRO must show, through the command line a user types; real text unless it says otherwise.
//
//   fp32      dp 2 x batch 4 against dp 1 x batch 8, 50 steps: largest relative difference of the loss
//   loss      o2 at dp 4 x batch 2 against dp 1 x batch 8, gpt-nano, 500 steps: held-out loss, by seed
//   traffic   bytes a step that a rank of dp 2 sends, gpt2-124m, by recipe (random tokens)
//   zero      bytes of optimizer states by rank at dp 4 with ZeRO, against one rank's
//
//   npx tsx -C source benchmarks/training/data_parallel.ts [--only fp32,loss,traffic,zero] [--seeds 1,2,3] [--save]
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';
import { runThreads } from 'fp8-dist';
import type { RunSummary } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';
import type { StatesJob } from './ranks/states.ts';

const root = new URL('../..', import.meta.url).pathname;
const { values: options } = parseArgs({
  options: {
    only: { type: 'string', default: 'fp32,loss,traffic,zero' },
    seeds: { type: 'string', default: '1,2,3' },
    save: { type: 'boolean', default: false },
  },
});

interface Run {
  losses: number[];
  valLoss: number | null;
  summary: RunSummary;
}

/** `fp8lm train … --json`. @throws Error with its stderr if it fails */
function train(args: string): Promise<Run> {
  const command = [`${root}packages/fp8-cli/bin/fp8lm.mjs`, 'train', ...args.split(' '), '--json'];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (d) => {
    out += d;
  });
  child.stderr.on('data', (d) => {
    err += d;
  });
  return new Promise((resolve, reject) => {
    child.on('close', (code) => {
      if (code !== 0) return reject(new Error(`fp8lm train ${args}: code ${code}\n${err}`));
      const rows = out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { loss?: number; valLoss?: number; summary?: RunSummary });
      const { summary } = rows.at(-1) as { summary: RunSummary };
      process.stderr.write(`${args}: held-out loss ${summary.valLoss}\n`);
      resolve({ losses: rows.flatMap((row) => row.loss ?? []), valLoss: summary.valLoss, summary });
    });
  });
}

interface Section {
  text: string;
  values: unknown;
}

async function float32(): Promise<Section> {
  const common = 'gpt-nano --recipe fp32 --steps 50 --eval-every 0 --eval-batches 4';
  const one = await train(`${common} --batch 8`);
  const two = await train(`${common} --batch 4 --dp 2`);
  const apart = Math.max(...one.losses.map((loss, i) => Math.abs(two.losses[i] / loss - 1)));
  const text = `fp32, gpt-nano: dp 2 x batch 4 against dp 1 x batch 8, 50 steps: loss within ${apart.toExponential(1)} relative at every step`;
  return { text, values: { apart, one: one.losses, two: two.losses } };
}

async function loss(): Promise<Section> {
  const rows: string[][] = [];
  const values: unknown[] = [];
  const sums = [0, 0];
  const seeds = options.seeds.split(',');
  for (const seed of seeds) {
    const common = `gpt-nano --recipe o2 --steps 500 --seed ${seed} --eval-every 0`;
    const one = (await train(`${common} --batch 8 --eval-batches 64`)).valLoss as number;
    const four = (await train(`${common} --batch 2 --dp 4 --eval-batches 64`)).valLoss as number;
    rows.push([seed, one.toFixed(4), four.toFixed(4), percent(four / one - 1)]);
    values.push({ seed, one, four });
    sums[0] += one;
    sums[1] += four;
  }
  const means = sums.map((sum) => (sum / seeds.length).toFixed(4));
  rows.push(['mean', ...means, percent(sums[1] / sums[0] - 1)]);
  const head = ['seed', 'dp 1 x batch 8', 'dp 4 x batch 2', 'difference'];
  return { text: `o2, gpt-nano, 500 steps, held-out loss over the same text:\n\n${table(head, rows)}`, values };
}

async function traffic(): Promise<Section> {
  const sent: Record<string, number> = {};
  for (const recipe of ['bf16', 'o2']) {
    const common = `gpt2-124m --data random --recipe ${recipe} --batch 1 --seq 64 --dp 2`;
    const [few, more] = [await train(`${common} --steps 1`), await train(`${common} --steps 3`)];
    sent[recipe] = (more.summary.comm.bytesSent - few.summary.comm.bytesSent) / 2;
  }
  const rows = Object.entries(sent).map(([recipe, bytes]) => [
    recipe,
    (bytes / 1e6).toFixed(2),
    (bytes / sent.bf16).toFixed(3),
  ]);
  const head = ['recipe', 'MB sent by a rank a step', 'of bf16'];
  return { text: `gpt2-124m, dp 2, all traffic of a step, headers included:\n\n${table(head, rows)}`, values: sent };
}

async function zero(): Promise<Section> {
  const kinds = [
    ['gpt-nano', 'o2'],
    ['gpt-12m', 'o2'],
    ['gpt-12m', 'o3'],
    ['gpt-12m', 'bf16'],
    ['gpt2-124m', 'o2'],
  ];
  const module = new URL('./ranks/states.ts', import.meta.url);
  const jobs = (zero: 0 | 1): StatesJob[] => kinds.map(([model, recipe]) => ({ model, recipe, zero }));
  const [whole] = await runThreads<number[]>(1, module, jobs(0));
  const ranks = await runThreads<number[]>(4, module, jobs(1));
  const values = kinds.map(([model, recipe], i) => ({ model, recipe, whole: whole[i], ranks: ranks.map((r) => r[i]) }));
  const rows = values.map(({ model, recipe, whole: all, ranks: parts }) => [
    `${model}, ${recipe}`,
    (all / 1e6).toFixed(2),
    parts.map((bytes) => (bytes / 1e6).toFixed(2)).join(' '),
    (Math.max(...parts) / all).toFixed(4),
    (Math.max(...parts) / Math.min(...parts)).toFixed(3),
  ]);
  const head = ['model', 'dp 1, MB', 'dp 4 by rank, MB', 'largest of dp 1', 'max/min'];
  return { text: `Optimizer states (masters and moments) with ZeRO:\n\n${table(head, rows)}`, values };
}

const percent = (x: number): string => `${x >= 0 ? '+' : ''}${(100 * x).toFixed(2)} %`;

const all: Record<string, () => Promise<Section>> = { fp32: float32, loss, traffic, zero };
const sections: Record<string, Section> = {};
for (const name of options.only.split(',')) {
  sections[name] = await all[name]();
  console.log(`${sections[name].text}\n`);
}
if (options.save) {
  const command = `npx tsx -C source benchmarks/training/data_parallel.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const head = `# Data parallelism and ZeRO\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n`;
  const text = Object.values(sections).map((section) => `\n${section.text}\n`);
  const name = options.only.includes(',') ? 'data-parallel' : `data-parallel-${options.only}`;
  const values = Object.fromEntries(Object.entries(sections).map(([key, section]) => [key, section.values]));
  console.log(save(`${root}benchmarks/results`, name, { provenance: about, options, values }, head + text.join('')));
}
