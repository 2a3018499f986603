// FP8 between pipeline stages (--fp8-pipeline) against the activations' own dtype: bytes sent and held-out loss, by seed.
//
//   npx tsx -C source benchmarks/training/pipeline_payload.ts [--steps 300] [--seeds 1,2,3] [--save]
import { execFileSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import type { RunSummary } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const root = new URL('../..', import.meta.url).pathname;
const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: '300' },
    seeds: { type: 'string', default: '1,2,3' },
    save: { type: 'boolean', default: false },
  },
});
const common = `gpt-nano --recipe o3 --pp 2 --batch 2 --grad-accum 4 --eval-every 0 --eval-batches 64`;

function train(args: string): RunSummary {
  const command = [`${root}packages/fp8-cli/bin/fp8lm.mjs`, 'train', ...args.split(' '), '--json'];
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
  const [plain, fp8] = [train(args), train(`${args} --fp8-pipeline`)];
  const losses = [plain.valLoss as number, fp8.valLoss as number];
  for (const i of [0, 1]) sums[i] += losses[i];
  rows.push([seed, ...losses.map((x) => x.toFixed(4)), percent(losses), bytes(plain, fp8)]);
  values.push({ seed, plain, fp8 });
}
const n = options.seeds.split(',').length;
rows.push(['mean', ...sums.map((x) => (x / n).toFixed(4)), percent(sums), '']);
const text = table(
  ['seed', 'bf16 between stages', 'FP8 between stages', 'difference', 'bytes sent, FP8 of bf16'],
  rows,
);
console.log(text);
if (options.save) {
  const command = `npx tsx -C source benchmarks/training/pipeline_payload.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const page = `# FP8 between pipeline stages\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\nfp8lm train ${common} --steps ${options.steps}: held-out loss in nats; all bytes that the busier rank sent, headers and the tied embedding's gradient included.\n\n${text}\n`;
  console.log(save(`${root}benchmarks/results`, 'pipeline-payload', { provenance: about, options, values }, page));
}

function percent([a, b]: readonly number[]): string {
  const difference = 100 * (b / a - 1);
  return `${difference >= 0 ? '+' : ''}${difference.toFixed(2)} %`;
}

function bytes(plain: RunSummary, fp8: RunSummary): string {
  return (fp8.comm.bytesSent / plain.comm.bytesSent).toFixed(3);
}
