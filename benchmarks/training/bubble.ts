// The bubble of a pipeline: share of a step's forwards and backwards in which the ranks of equal stages idle, measured, beside
// (pp - 1) / (v m + pp - 1). Two ranks of one thread each, on a machine with two free cores; steps of all cases in turn.
//
//   npx tsx -C source benchmarks/training/bubble.ts [--steps 5] [--save]
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { modelContext, recipeNamed } from 'fp8-core';
import {
  bubbleShare,
  DataParallel,
  drawText,
  initializeModelParallel,
  init,
  launch,
  type PipelineTrace,
  planSchedule,
  type Span,
} from 'fp8-dist';
import { presets } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor, buildModel, randomTokens, Sampler, Trainer } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const root = new URL('../..', import.meta.url).pathname;
const { values: options } = parseArgs({
  options: { steps: { type: 'string', default: '5' }, save: { type: 'boolean', default: false } },
});
const stages = 2;
const [seq, batch] = [256, 4];
/** Stages of equal work: a vocabulary so small that embedding and head cost next to nothing. */
const model = { ...presets['gpt-12m'], vocabSize: 64, numLayers: 8 };
const kinds = [
  { microbatches: 2, virtual: 1 },
  { microbatches: 4, virtual: 1 },
  { microbatches: 8, virtual: 1 },
  { microbatches: 2, virtual: 2 },
  { microbatches: 4, virtual: 2 },
  { microbatches: 8, virtual: 2 },
];

async function rank(): Promise<void> {
  const comm = await init();
  const cases = kinds.map((kind) => {
    const mesh = initializeModelParallel(comm, { pipeline: stages, virtualPipeline: kind.virtual });
    const context = modelContext(backendFor('cpu'), recipeNamed('bf16'), 1);
    const parts = buildModel(context, { ...model, tied: false }, { layout: null, sp: false }, mesh);
    const parallel = new DataParallel(parts.parameters(), mesh);
    const trainer = new Trainer(
      parts,
      new AdamW(parts.parameters(), {}, parallel),
      { batch, seq, gradAccum: kind.microbatches },
      parallel,
    );
    return { kind, trainer, idle: [] as number[], last: [] as PipelineTrace[] };
  });
  const sampler = new Sampler(randomTokens(model.vocabSize, 1), { seqLen: seq, seed: 1 });
  for (let step = -1; step < Number(options.steps); step++) {
    for (const c of cases) {
      comm.world.barrier().wait();
      c.trainer.step(() => sampler.nextBatch(batch), 1e-3);
      c.last = comm.world.gatherObjects(c.trainer.trace as PipelineTrace);
      if (step >= 0) c.idle.push(idleShare(c.last));
    }
  }
  if (comm.rank === 0) report(cases.map(({ kind, idle, last }) => ({ kind, idle: median(idle), last })));
  await comm.close();
}

/** Of the time from the first begin to the last end on any rank, the share without a forward or backward, mean over ranks. */
function idleShare(traces: readonly PipelineTrace[]): number {
  const begin = Math.min(...traces.map((t) => t.beganAt + t.spans[0].begin));
  const end = Math.max(...traces.map((t) => t.beganAt + (t.spans.at(-1) as Span).end));
  const busy = traces.map((t) => t.spans.reduce((sum, s) => sum + s.end - s.begin, 0));
  return 1 - busy.reduce((a, b) => a + b, 0) / (traces.length * (end - begin));
}

function report(results: { kind: (typeof kinds)[number]; idle: number; last: PipelineTrace[] }[]): void {
  const rows = results.map(({ kind, idle }) => {
    const predicted = bubbleShare(planSchedule({ stages, ...kind }));
    return [
      `${kind.microbatches}`,
      `${kind.virtual}`,
      percent(predicted),
      percent(idle),
      (idle / predicted).toFixed(2),
    ];
  });
  const head = ['micro-batches m', 'chunks v', '(pp - 1) / (v m + pp - 1)', 'measured, median', 'ratio'];
  const text = table(head, rows);
  const measured = asSimulation(results[1].last);
  const timeline = drawText(measured, measured.end / 40);
  console.log(`${text}\n\n${timeline}`);
  if (!options.save) return;
  const command = `npx tsx -C source benchmarks/training/bubble.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const what = `pp 2, one thread a rank, ${options.steps} steps a case in turn, bf16, ${model.numLayers} layers of ${model.hiddenSize}, batch ${batch}, sequence ${seq}`;
  const page = `# The bubble of a pipeline\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n${what}.\n\n${text}\n`;
  const values = results.map(({ kind, idle }) => ({ ...kind, idle }));
  console.log(save(`${root}benchmarks/results`, 'bubble', { provenance: about, options, values }, page));
}

/** Measured spans as the drawing takes them, in milliseconds. */
function asSimulation(traces: readonly PipelineTrace[]) {
  const zero = Math.min(...traces.map((t) => t.beganAt));
  const spans = traces.map((t) =>
    t.spans.map((s) => ({ ...s, begin: s.begin + t.beganAt - zero, end: s.end + t.beganAt - zero })),
  );
  const end = Math.max(...spans.flat().map((s) => s.end));
  return { spans, end, idleShare: 0, peakInFlight: [], peakUnsent: [], peakAsked: [] };
}

const percent = (x: number): string => `${(100 * x).toFixed(1)} %`;
const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1];

if (process.env.RANK === undefined) {
  const command = [process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  process.exitCode = (await launch({ command, nproc: stages, prefix: 'first' })).code;
} else await rank();
