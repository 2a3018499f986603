// FP8 on the wire against the way it is by default: bytes sent and held-out loss, by seed. Of a pipeline: boundary tensors in FP8
// (--fp8-pipeline) against the activations' own dtype. Of tensor-parallel ranks: every payload in FP8 against the paper's way.
//
//   npx tsx -C source benchmarks/training/payloads.ts [--of pipeline|tensor] [--model gpt-nano] [--steps 300] [--seeds 1,2,3]
//       [--seq 128] [--save]
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import type { RunSummary } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const root = new URL('../..', import.meta.url).pathname;
const { values: options } = parseArgs({
  options: {
    of: { type: 'string', default: 'pipeline' },
    model: { type: 'string', default: 'gpt-nano' },
    steps: { type: 'string', default: '300' },
    seeds: { type: 'string', default: '1,2,3' },
    seq: { type: 'string', default: '128' },
    save: { type: 'boolean', default: false },
  },
});

interface Comparison {
  title: string;
  /** Layout and micro-batches of both. */
  common: string;
  /** What is compared, and the flags that make it. */
  names: [plain: string, fp8: string];
  flags: [plain: string, fp8: string];
}
const comparisons: Record<string, Comparison> = {
  pipeline: {
    title: 'FP8 between pipeline stages',
    common: '--pp 2 --batch 2 --grad-accum 4',
    names: ['bf16 between stages', 'FP8 between stages'],
    flags: ['', '--fp8-pipeline'],
  },
  tensor: {
    title: 'All payloads of tensor-parallel ranks in FP8',
    common: '--tp 2 --sp --batch 4',
    names: ["the paper's way", 'all in FP8'],
    flags: ['--payloads paper', '--payloads all'],
  },
};
const comparison = comparisons[options.of];
if (!comparison) throw new Error(`--of ${options.of}: expected pipeline or tensor`);
const { title, names, flags } = comparison;
const common = `${options.model} --recipe o3 ${comparison.common} --seq ${options.seq} --eval-every 0 --eval-batches 64`;

function train(args: string): RunSummary {
  const command = [`${root}packages/fp8-cli/bin/fp8lm.mjs`, 'train', ...args.trim().split(' '), '--json'];
  const out = execFileSync(process.execPath, command, { encoding: 'utf8', maxBuffer: 2 ** 28 });
  const { summary } = JSON.parse(out.trim().split('\n').at(-1) as string) as { summary: RunSummary };
  process.stderr.write(`${args}: held-out loss ${summary.valLoss}\n`);
  return summary;
}

const rows: string[][] = [];
const values: unknown[] = [];
const sums = [0, 0];
for (const seed of options.seeds.split(',')) {
  const args = `${common} --steps ${options.steps} --seed ${seed}`;
  const [plain, fp8] = flags.map((flag) => train(`${args} ${flag}`));
  const losses = [plain.valLoss as number, fp8.valLoss as number];
  for (const i of [0, 1]) sums[i] += losses[i];
  rows.push([seed, ...losses.map((x) => x.toFixed(4)), percent(losses), bytes(plain, fp8)]);
  values.push({ seed, plain, fp8 });
}
const n = options.seeds.split(',').length;
rows.push(['mean', ...sums.map((x) => (x / n).toFixed(4)), percent(sums), '']);
const text = table(['seed', ...names, 'difference', 'bytes sent, ratio'], rows);
console.log(text);
if (options.save) {
  const command = `npx tsx -C source benchmarks/training/payloads.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const each = flags.map((flag, i) => `${names[i]}: ${flag || 'no flag'}`).join('; ');
  const page = `# ${title}\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\nfp8lm train ${common} --steps ${options.steps} (${each}): held-out loss in nats; all bytes that the busier rank sent, headers and, of a pipeline, the tied embedding's gradient included.\n\n${text}\n`;
  const name = `payloads-${options.of}-${options.model}`;
  console.log(save(`${root}benchmarks/results`, name, { provenance: about, options, values }, page));
}

function percent([a, b]: readonly number[]): string {
  const difference = 100 * (b / a - 1);
  return `${difference >= 0 ? '+' : ''}${difference.toFixed(2)} %`;
}

function bytes(plain: RunSummary, fp8: RunSummary): string {
  return (fp8.comm.bytesSent / plain.comm.bytesSent).toFixed(3);
}
