// FP8 gradients over ranks: which factor on the shared scale? As figure 7 of FP8-LM (arXiv:2310.18313), on real gradients.
//
//   pre-scaling    1/N: every rank divides first; the sum never overflows, small elements underflow
//   post-scaling   1: sum first, divide then; the sum overflows
//   auto-scaling   mu, which follows the saturation of the reduced gradient (equation 3)
//
// Trains a model on the built-in text by N micro-batches a step, each standing for a rank. Every weight gradient of the linear
// layers is taken in float32 from each, and reduced in e4m3 in the three ways, exactly as fp8-dist does: shared minimum scale,
// round, sum in float32, round once. The exact mean trains the model, so all three see the same gradients. Per tensor and step:
//
//   saturated   share of elements of the result that are +-448
//   underflow   share of elements whose exact mean is not zero and whose result is
//   SNR         10 log10 of (sum of exact^2) / (sum of (exact - result)^2)
//
//   npx tsx -C source benchmarks/training/gradient_scaling.ts [--model gpt-nano] [--ranks 8] [--steps 200] [--save]
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import {
  dtypes,
  empty,
  modelContext,
  type Parameter,
  type Recipe,
  record,
  recipeNamed,
  scaleFor,
  scope,
  type Tensor,
} from 'fp8-core';
import { Gpt, presetNamed } from 'fp8-models';
import { AdamW, cosine } from 'fp8-optim';
import { backendFor, openData, Sampler } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';
import { panels } from './panels.ts';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'gpt-nano' },
    ranks: { type: 'string', default: '8' },
    batch: { type: 'string', default: '1' },
    steps: { type: 'string', default: '200' },
    skip: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    save: { type: 'boolean', default: false },
  },
});
const ranks = Number(options.ranks);
const steps = Number(options.steps);
const skip = Number(options.skip);
const batch = Number(options.batch);

const methods = ['pre-scaling', 'post-scaling', 'auto-scaling'] as const;
type Method = (typeof methods)[number];

interface Sums {
  saturated: number;
  underflow: number;
  snr: number;
  count: number;
}

/** What one parameter's gradient went through. */
interface Watched {
  parameter: Parameter;
  /** Float32 gradient of each rank in this step. */
  parts: Float32Array[];
  mu: number;
  sums: Record<Method, Sums>;
}

const o2 = recipeNamed('o2');
const exact: Recipe = { ...o2, linear: { ...o2.linear, grad: 'f32', gradPayload: 'f32' }, autoScale: null };
const { threshold, growth } = o2.autoScale as NonNullable<Recipe['autoScale']>;
const config = presetNamed(options.model);
const backend = backendFor('auto');
const { kernels } = backend;
const context = modelContext(backend, exact, Number(options.seed));
const model = new Gpt(context, config);
const optimizer = new AdamW(model.parameters());
const data = openData({
  data: 'builtin',
  tokenizer: 'bpe',
  vocabSize: config.vocabSize,
  seqLen: config.maxSeqLen,
  valFraction: 0.05,
  seed: 1,
  folder: null,
});
const sampler = new Sampler(data.train, { seqLen: config.maxSeqLen, seed: Number(options.seed) });
const emptySums = (): Sums => ({ saturated: 0, underflow: 0, snr: 0, count: 0 });
const watched = model
  .parameters()
  .filter((p) => p.kind === 'linear')
  .map(
    (parameter): Watched => ({
      parameter,
      parts: [],
      mu: 1 / Math.sqrt(ranks),
      sums: { 'pre-scaling': emptySums(), 'post-scaling': emptySums(), 'auto-scaling': emptySums() },
    }),
  );

const readFloats = (t: Tensor): Float32Array => {
  const values = new Float32Array(t.size);
  t.backend.read(t.handle, new Uint8Array(values.buffer));
  return values;
};
const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer);

function backward(): number {
  const { inputs, targets, seqLen } = sampler.nextBatch(batch);
  return scope(() => {
    const upload = (ids: Int32Array): Tensor => {
      const t = empty(backend, [seqLen, batch], 'i32');
      backend.write(t.handle, new Uint8Array(ids.buffer));
      return t;
    };
    const run = record(() => model.loss(upload(inputs), upload(targets), seqLen * batch, { gradScale: 1 / ranks }));
    run.backward();
    return readFloats(run.output)[0];
  });
}

/** Casts to e4m3 with a given scale. */
function castTo(x: Tensor, scale: number): Tensor {
  const y = empty(backend, x.shape, 'e4m3');
  backend.writeScale(y.handle, new Float32Array([scale, 1 / scale, 0, 0]));
  kernels.cast({ y, x, n: x.size, random: 0 });
  return y;
}

/** The reduced gradient (a sum of parts that have 1/N in them already, i.e. the mean) after e4m3, and its saturated share. */
function reduce(parts: readonly Tensor[], shared: number, factor: number): { result: Float32Array; saturated: number } {
  return scope(() => {
    const scale = shared * factor;
    const [first] = parts;
    const sum = empty(backend, first.shape, 'f32');
    kernels.fill({ y: sum, n: sum.size, value: 0 });
    for (const part of parts) {
      scope(() => {
        const rounded = empty(backend, first.shape, 'f32');
        kernels.cast({ y: rounded, x: castTo(part, scale), n: rounded.size, random: 0 });
        kernels.add({ y: sum, a: sum, b: rounded, n: sum.size });
      });
    }
    const reduced = castTo(sum, scale);
    const count = empty(backend, [1], 'f32');
    kernels.saturated({ y: count, x: reduced, n: reduced.size });
    kernels.cast({ y: sum, x: reduced, n: sum.size, random: 0 });
    return { result: readFloats(sum), saturated: readFloats(count)[0] / sum.size };
  });
}

function compare(mean: Float32Array, result: Float32Array): { underflow: number; snr: number } {
  let lost = 0;
  let signal = 0;
  let noise = 0;
  for (let i = 0; i < mean.length; i++) {
    if (mean[i] !== 0 && result[i] === 0) lost++;
    signal += mean[i] ** 2;
    noise += (mean[i] - result[i]) ** 2;
  }
  return { underflow: lost / mean.length, snr: 10 * Math.log10(signal / noise) };
}

function measure(w: Watched, mean: Float32Array, count: boolean): void {
  scope(() => {
    const parts = w.parts.map((values) => {
      const t = empty(backend, [values.length], 'f32');
      backend.write(t.handle, bytesOf(values));
      return t;
    });
    const scales = w.parts.map((values) =>
      scaleFor(
        values.reduce((a, v) => Math.max(a, Math.abs(v)), 0),
        dtypes.e4m3.max,
        1,
      ),
    );
    const shared = Math.min(...scales);
    const factors: Record<Method, number> = { 'pre-scaling': 1 / ranks, 'post-scaling': 1, 'auto-scaling': w.mu };
    for (const method of methods) {
      const { result, saturated } = reduce(parts, shared, factors[method]);
      if (method === 'auto-scaling') w.mu *= saturated > threshold ? 0.5 : growth;
      if (!count) continue;
      const { underflow, snr } = compare(mean, result);
      const sums = w.sums[method];
      sums.saturated += saturated;
      sums.underflow += underflow;
      sums.snr += snr;
      sums.count++;
    }
  });
}

let loss = 0;
for (let step = 0; step < steps; step++) {
  loss = 0;
  const totals = new Map<Parameter, Float32Array>();
  for (let rank = 0; rank < ranks; rank++) {
    loss += backward() / ranks;
    for (const p of model.parameters()) {
      const own = readFloats(p.grad as Tensor);
      const total = totals.get(p);
      if (total) for (let i = 0; i < own.length; i++) total[i] += own[i];
      else totals.set(p, own.slice());
      watched.find((w) => w.parameter === p)?.parts.push(own);
      p.zeroGrad();
    }
  }
  for (const w of watched) {
    measure(w, totals.get(w.parameter) as Float32Array, step >= skip);
    w.parts = [];
  }
  for (const [p, total] of totals) backend.write(p.gradForAccumulation().grad.handle, bytesOf(total));
  optimizer.step(cosine({ lr: 1e-3, totalSteps: steps, warmupSteps: Math.ceil(steps / 20) })(step));
  context.scaling.update();
  for (const p of model.parameters()) p.zeroGrad();
  if (step % 20 === 0) process.stderr.write(`step ${step}/${steps} loss ${loss.toFixed(3)}\n`);
}
data.close();

type Measured = 'saturated' | 'underflow' | 'snr';
const meanOf = (method: Method, what: Measured, of = watched): number =>
  of.reduce((sum, w) => sum + w.sums[method][what] / w.sums[method].count, 0) / of.length;
const rows = methods.map((method) => [
  method,
  meanOf(method, 'saturated').toExponential(2),
  `${(100 * meanOf(method, 'underflow')).toFixed(4)} %`,
  meanOf(method, 'snr').toFixed(2),
]);
const text = table(['scaling', 'saturated', 'underflow', 'SNR, dB'], rows);
console.log(text);

if (options.save) {
  const command = `npx tsx -C source benchmarks/training/gradient_scaling.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(new URL('../..', import.meta.url).pathname, command);
  const tensors = watched.map(({ parameter, mu, sums }) => ({
    name: parameter.name,
    mu,
    ...Object.fromEntries(
      methods.map((m) => [
        m,
        {
          saturated: sums[m].saturated / sums[m].count,
          underflow: sums[m].underflow / sums[m].count,
          snr: sums[m].snr / sums[m].count,
        },
      ]),
    ),
  }));
  const name = `gradient-scaling-${options.model}`;
  const head = `# Gradients in e4m3 over ${ranks} ranks: ${options.model}, ${steps} steps\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n`;
  const notes = `\nMeans over the ${watched.length} weight gradients of linear layers and the steps after the first ${skip}. mu ended between ${Math.min(...watched.map((w) => w.mu)).toFixed(3)} and ${Math.max(...watched.map((w) => w.mu)).toFixed(3)}; 1/N is ${(1 / ranks).toFixed(3)}.\n\n![by tensor](${about.date.slice(0, 10)}-${name}.svg)\n`;
  const base = save(
    new URL('../results', import.meta.url).pathname,
    name,
    { provenance: about, options, tensors },
    `${head}${text}\n${notes}`,
  );
  const series = (what: Measured, floor = 0) =>
    methods.map((method) => ({
      name: method,
      values: watched.map((w) => Math.max(floor, w.sums[method][what] / w.sums[method].count)),
    }));
  const labels = watched.map(({ parameter }) => parameter.name.replace(/\.weight$/, ''));
  writeFileSync(
    `${base}.svg`,
    panels(labels, [
      { title: 'saturated share (log)', log: true, series: series('saturated', 1e-7) },
      { title: 'underflow share (log)', log: true, series: series('underflow', 1e-7) },
      { title: 'signal to noise, dB', log: false, series: series('snr') },
    ]),
  );
  console.log(base);
}
