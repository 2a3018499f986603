#!/usr/bin/env node
// `fp8lm bench allreduce` and PyTorch's gloo (allreduce_gloo.py), in alternating rounds of one run, each measurement in
// processes of its own:
//
//   node benchmarks/peers/allreduce.mjs [--nproc 2,4] [--elements 16777216] [--dtypes fp32,bf16,e4m3] [--rounds 3]
//        [--seconds 0.7] [--json] [--save]
//
// Elements a second as ratios to gloo's fp32 of the same round, of the same number of ranks and elements; the latency of 1,024
// fp32 elements as a ratio to gloo's. Exit code 2: PyTorch is missing.
import { spawnSync } from 'node:child_process';
import { loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median, provenance, save, table } from '../report.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const bin = join(here, '..', '..', 'packages', 'fp8-cli', 'bin', 'fp8lm.mjs');
const { values: o } = parseArgs({
  options: {
    nproc: { type: 'string', default: '2,4' },
    elements: { type: 'string', default: '16777216' },
    dtypes: { type: 'string', default: 'fp32,bf16,e4m3' },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '0.7' },
    json: { type: 'boolean', default: false },
    save: { type: 'boolean', default: false },
  },
});
const list = (text) => text.split(',').filter((t) => t);
const python = [process.env.PYTHON, '/usr/bin/python3', 'python3']
  .filter((p) => p)
  .find((p) => spawnSync(p, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0);
if (!python) {
  console.error('allreduce: PyTorch is missing; apt-get install python3-torch, or set PYTHON');
  process.exit(2);
}

function run(command, args) {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: 120_000 });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${status}: ${stderr.slice(-500)}`);
  return JSON.parse(stdout.trim().split('\n').pop());
}

const load = loadavg()[0];
const rows = [];
for (const nproc of list(o.nproc)) {
  for (const elements of list(o.elements)) {
    const common = ['--nproc', nproc, '--elements', elements, '--seconds', o.seconds];
    for (let round = 1; round <= Number(o.rounds); round++) {
      const gloo = run(python, [join(here, 'allreduce_gloo.py'), ...common]);
      for (const dtype of list(o.dtypes)) {
        const ours = run(process.execPath, [bin, 'bench', 'allreduce', '--json', '--dtype', dtype, ...common]);
        rows.push({
          nproc: Number(nproc),
          elements: Number(elements),
          dtype,
          round,
          speed: ours.elementsPerSecond / gloo.elementsPerSecond,
          latency: ours.latencyUsSmall / gloo.latencyUsSmall,
          wire: ours.payloadBytesPerRank,
          ours,
          gloo,
        });
        if (!o.json)
          process.stderr.write(
            `${nproc} ranks, ${elements}, ${dtype}, round ${round}: ${rows.at(-1).speed.toFixed(2)}\n`,
          );
      }
    }
  }
}

const of = (n, e, d) => rows.filter((r) => r.nproc === n && r.elements === e && r.dtype === d);
const summary = [];
for (const n of list(o.nproc).map(Number)) {
  for (const e of list(o.elements).map(Number)) {
    const fp32 = of(n, e, 'fp32')[0]?.wire ?? 2 * 4 * e * ((n - 1) / n);
    for (const d of list(o.dtypes)) {
      const r = of(n, e, d);
      const speeds = r.map((x) => x.speed);
      summary.push({
        nproc: n,
        elements: e,
        dtype: d,
        speed: median(speeds),
        least: Math.min(...speeds),
        latency: median(r.map((x) => x.latency)),
        wire: r[0].wire / fp32,
      });
    }
  }
}
if (o.json) console.log(JSON.stringify({ load, summary, rows }));
const cells = summary.map((s) => [
  `${s.nproc} ranks, ${s.elements.toLocaleString('en')}, ${s.dtype}`,
  s.speed.toFixed(2),
  s.least.toFixed(2),
  s.latency.toFixed(2),
  s.wire.toFixed(4),
]);
const head = ['', "elements/s ÷ gloo fp32's", 'least round', "latency of 1,024 ÷ gloo's", "bytes sent ÷ fp32's"];
const text = table(head, cells);
if (!o.json) console.log(text);
if (o.save) {
  const root = join(here, '..', '..');
  const command = ['node', 'benchmarks/peers/allreduce.mjs', ...process.argv.slice(2)].join(' ');
  const origin = provenance(root, command);
  const { cpu, threads, memoryGB, date, commit } = origin;
  const size = list(o.elements).length > 1 ? 'sizes' : list(o.elements)[0];
  const page = [
    '# All-reduce against gloo',
    `${cpu}, ${threads} threads, ${memoryGB} GB; ${date}; commit ${commit}`,
    `Node ${process.version}; \`${command}\``,
    `Load of the machine before the run: ${load.toFixed(2)}. Medians of ${o.rounds} rounds.`,
    text,
  ];
  const result = { provenance: origin, loadBefore: load, summary, rows };
  save(join(root, 'benchmarks', 'results'), `allreduce-${size}`, result, `${page.join('\n\n')}\n`);
}
