// o3 on tp 2 x pp 2 x dp 2 with sequence parallelism and ZeRO, against one rank in bf16, on the same real text in the same order:
// held-out loss, bytes a rank keeps, traffic. Through the command line that a user types.
//
//   npx tsx -C source benchmarks/training/three_axes.ts [--model gpt-12m] [--steps 500] [--seq 128] [--save]
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';
import type { RunSummary } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const root = new URL('../..', import.meta.url).pathname;
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'gpt-12m' },
    steps: { type: 'string', default: '500' },
    seq: { type: 'string', default: '128' },
    save: { type: 'boolean', default: false },
  },
});

interface Run {
  args: string;
  losses: number[];
  summary: RunSummary;
}

function train(args: string): Promise<Run> {
  const command = [`${root}packages/fp8-cli/bin/fp8lm.mjs`, 'train', ...args.split(' '), '--json'];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (d) => {
    const before = out.length;
    out += d;
    for (const [, step] of out.slice(before).matchAll(/"step":(\d+00),"loss"/g)) process.stderr.write(`step ${step}\n`);
  });
  return new Promise((resolve, reject) => {
    child.on('close', (code) => {
      if (code !== 0) return reject(new Error(`fp8lm train ${args}: code ${code}`));
      const rows = out
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { loss?: number; summary?: RunSummary });
      const { summary } = rows.at(-1) as { summary: RunSummary };
      process.stderr.write(`${args}: held-out loss ${summary.valLoss}\n`);
      resolve({ args, losses: rows.flatMap((row) => row.loss ?? []), summary });
    });
  });
}

const common = `${options.model} --steps ${options.steps} --seq ${options.seq} --eval-every 0`;
const one = await train(`${common} --recipe bf16 --batch 8 --eval-batches 16`);
const layout = '--nproc 8 --tp 2 --pp 2 --dp 2 --sp --zero';
const many = await train(`${common} --recipe o3 ${layout} --batch 2 --grad-accum 2 --eval-batches 32`);

const mb = (bytes: number): string => (bytes / 1e6).toFixed(2);
const states = ({ memory }: RunSummary): number => memory.weights + memory.gradients + memory.optimizer;
const ratio = (a: number, b: number): string => (b / a).toFixed(3);
const [a, b] = [one.summary, many.summary];
const rows = [
  ['held-out loss', (a.valLoss as number).toFixed(4), (b.valLoss as number).toFixed(4), percent(b, a)],
  ['weights + gradients + states of a rank, MB', mb(states(a)), mb(states(b)), ratio(states(a), states(b))],
  [
    'activations of a rank, peak, MB',
    mb(a.memory.activationsPeak),
    mb(b.memory.activationsPeak),
    ratio(a.memory.activationsPeak, b.memory.activationsPeak),
  ],
  ['sent by a rank, MB a step', '0', mb(b.comm.bytesSent / Number(options.steps)), ''],
];
const text = table(['', 'bf16, 1 rank', 'o3, 2 x 2 x 2', ''], rows);
console.log(text);
if (options.save) {
  const command = `npx tsx -C source benchmarks/training/three_axes.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const what = `Both: 8 sequences of ${options.seq} tokens a step, ${options.steps} steps, the same sequences in the same order.`;
  const page = `# o3 on 2 x 2 x 2 ranks against bf16 on one, ${options.model}\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n${what} The largest rank's bytes.\n\n    fp8lm train ${one.args}\n    fp8lm train ${many.args}\n\n${text}\n`;
  const values = { provenance: about, options, one, many };
  console.log(save(`${root}benchmarks/results`, `three-axes-${options.model}`, values, page));
}

function percent({ valLoss: x }: RunSummary, { valLoss: of }: RunSummary): string {
  const difference = 100 * ((x as number) / (of as number) - 1);
  return `${difference >= 0 ? '+' : ''}${difference.toFixed(2)} %`;
}
