// Each parallel layer and mapping against one rank: forward, the gradient of the input, the gradient of every parameter.
import {
  type Backend,
  ledger,
  type Module,
  modelContext,
  type Parameter,
  record,
  recipeNamed,
  scope,
  type Tensor,
} from 'fp8-core';
import type { Group } from '../../src/index.ts';
import {
  addBias,
  alone,
  ColumnParallelLinear,
  type Communicator,
  copyToTensorModelParallelRegion,
  gatherFromSequenceParallelRegion,
  gatherFromTensorModelParallelRegion,
  initializeModelParallel,
  type Parallel,
  parallelHeadLoss,
  reduceFromTensorModelParallelRegion,
  reduceScatterToSequenceParallelRegion,
  RowParallelLinear,
  scatterToSequenceParallelRegion,
  scatterToTensorModelParallelRegion,
  vocabParallelCrossEntropy,
  VocabParallelEmbedding,
  vocabParallelTable,
  vocabRange,
} from '../../src/index.ts';
import { backendOf, Comparison, integers, normals, partOf, readFloats } from './compare.ts';

export interface LayersArgument {
  backends: readonly string[];
}

const seq = 8;
const batch = 3;

/** How an activation lies on the ranks. */
type Lie = 'whole' | 'rows' | 'columns';

interface Job {
  name: string;
  inDim: number;
  outDim: number;
  build(parallel: Parallel): { module: Module; forward(x: Tensor): Tensor };
  x: Lie;
  y: Lie;
  /** The ranks' gradients of x are parts of a sum. */
  sequenceParallel?: boolean;
}

export default async function layers(comm: Communicator, { backends }: LayersArgument) {
  const mesh = initializeModelParallel(comm, { tensor: comm.size });
  const check = new Comparison(1e-5);
  for (const name of backends) {
    const backend = await backendOf(name);
    for (const job of jobs(backend)) {
      compareJob(check, backend, { mesh, sequenceParallel: job.sequenceParallel === true }, job);
    }
    mappings(check, backend, { mesh, sequenceParallel: true });
    for (const sequenceParallel of [false, true]) vocabulary(check, backend, { mesh, sequenceParallel });
    for (const smoothing of [0, 0.1]) crossEntropy(check, backend, mesh.tp, smoothing);
  }
  check.true(`${ledger.total()} bytes of tensors are left`, ledger.total() === 0);
  return { failures: check.failures, count: check.count, worst: check.worst };
}

function jobs(backend: Backend): Job[] {
  const context = () => modelContext(backend, recipeNamed('fp32'), 5);
  const init = { std: 0.3 };
  const column = (parallel: Parallel, options = {}) => {
    const module = new ColumnParallelLinear(context(), 'c', 12, 24, parallel, { init, ...options });
    return { module, forward: (x: Tensor) => module.forward(x) };
  };
  const row = (parallel: Parallel, options = {}) => {
    const module = new RowParallelLinear(context(), 'r', 16, 10, parallel, { init, ...options });
    return { module, forward: (x: Tensor) => module.forward(x) };
  };
  const sizes = { column: { inDim: 12, outDim: 24 }, row: { inDim: 16, outDim: 10 } };
  const sequenceParallel = true;
  return [
    { name: 'column', ...sizes.column, x: 'whole', y: 'columns', build: (p) => column(p) },
    {
      name: 'column, gathered',
      ...sizes.column,
      x: 'whole',
      y: 'whole',
      build: (p) => column(p, { gatherOutput: true }),
    },
    { name: 'column, no bias', ...sizes.column, x: 'whole', y: 'columns', build: (p) => column(p, { bias: false }) },
    { name: 'column, sp', ...sizes.column, x: 'rows', y: 'columns', build: (p) => column(p), sequenceParallel },
    { name: 'row', ...sizes.row, x: 'columns', y: 'whole', build: (p) => row(p) },
    {
      name: 'row, whole input',
      ...sizes.row,
      x: 'whole',
      y: 'whole',
      build: (p) => row(p, { inputIsParallel: false }),
    },
    { name: 'row, sp', ...sizes.row, x: 'columns', y: 'rows', build: (p) => row(p), sequenceParallel },
    {
      name: 'row, bias apart, sp',
      ...sizes.row,
      x: 'columns',
      y: 'rows',
      sequenceParallel,
      build(p) {
        const module = new RowParallelLinear(context(), 'r', 16, 10, p, { init, skipBiasAdd: true });
        return { module, forward: (x) => addBias(module.forward(x), module.bias as Parameter) };
      },
    },
  ];
}

/** This rank's part of a whole activation. */
function cut(whole: Float32Array, shape: readonly number[], lie: Lie, p: Parallel): Float32Array {
  const { size, rank } = p.mesh.tp;
  if (lie === 'whole') return whole;
  if (lie === 'rows') return whole.slice((whole.length / size) * rank, (whole.length / size) * (rank + 1));
  const width = shape.at(-1) as number;
  const share = width / size;
  return whole.filter((_, i) => Math.floor((i % width) / share) === rank);
}

function put(backend: Backend, values: Float32Array, shape: readonly number[]): Tensor {
  const t = normals(backend, shape, 0);
  backend.write(t.handle, new Uint8Array(Float32Array.from(values).buffer));
  return t;
}

const localShape = (shape: readonly number[], lie: Lie, size: number): number[] =>
  shape.map((n, d) => ((lie === 'rows' && d === 0) || (lie === 'columns' && d === shape.length - 1) ? n / size : n));

function run(
  backend: Backend,
  job: Pick<Job, 'build'>,
  parallel: Parallel,
  x: Float32Array,
  xShape: readonly number[],
  dy: Float32Array,
) {
  const { module, forward } = job.build(parallel);
  const result = scope(() => {
    const input = put(backend, x, xShape);
    const recorded = record(() => forward(input), [input]);
    const output = readFloats(recorded.output);
    const shape = recorded.output.shape;
    const [dx] = recorded.backward(put(backend, dy, shape));
    const gradients = module.parameters().map((p) => {
      const values = readFloats(p.grad as Tensor);
      if (p.sumGrad) parallel.mesh.tp.allReduce(values).wait();
      return { p, values };
    });
    return { wrap: { output, shape, dx: readFloats(dx as Tensor), gradients } };
  });
  module.release();
  return result.wrap;
}

function compareJob(check: Comparison, backend: Backend, parallel: Parallel, job: Job): void {
  const { size } = parallel.mesh.tp;
  const xShape = [seq, batch, job.inDim];
  const yShape = [seq, batch, job.outDim];
  const [x, dy] = scope(() => [readFloats(normals(backend, xShape, 11)), readFloats(normals(backend, yShape, 12))]);
  const want = run(backend, job, alone(), x, xShape, dy);
  const own = localShape(xShape, job.x, size);
  const got = run(backend, job, parallel, cut(x, xShape, job.x, parallel), own, cut(dy, yShape, job.y, parallel));
  const name = `${job.name}, ${backend.name}`;
  check.true(`${name}: output is [${got.shape}]`, got.shape.join() === localShape(yShape, job.y, size).join());
  check.close(`${name}: y`, got.output, cut(want.output, yShape, job.y, parallel));
  check.close(`${name}: dx`, got.dx, cut(want.dx, xShape, job.x, parallel));
  got.gradients.forEach(({ p, values }, i) => {
    check.close(`${name}: gradient of ${p.name}`, values, partOf(p, want.gradients[i].values));
  });
}

/** Values that differ by rank where the ranks hold parts, and the answer computed here from all of them. */
function mappings(check: Comparison, backend: Backend, parallel: Parallel): void {
  const group = parallel.mesh.tp;
  const { size, rank } = group;
  const shape = [8, 3, 12];
  const ofRank = (r: number, seed: number, part: Lie = 'whole') =>
    scope(() => readFloats(normals(backend, localShape(shape, part, size), seed + 17 * r)));
  const sumOf = (seed: number) =>
    ofRank(0, seed).map((_, i) => parallel.mesh.tp.ranks.reduce((s, _r, r) => s + ofRank(r, seed)[i], 0));
  /** Joins the ranks' parts. */
  const join = (seed: number, lie: Lie): Float32Array => {
    const parts = group.ranks.map((_, r) => ofRank(r, seed, lie));
    if (lie === 'rows') return Float32Array.from(parts.flatMap((p) => [...p]));
    const share = shape[2] / size;
    const n = 8 * 3 * 12;
    return Float32Array.from({ length: n }, (_, i) => {
      const [row, c] = [Math.floor(i / 12), i % 12];
      return parts[Math.floor(c / share)][row * share + (c % share)];
    });
  };
  const own = (whole: Float32Array, lie: Lie): Float32Array => cut(whole, shape, lie, parallel);
  type Case = [string, (x: Tensor) => Tensor, Lie, Float32Array, Lie, Float32Array];
  const x = 100;
  const g = 200;
  const cases: Case[] = [
    ['copyTo', (t) => copyToTensorModelParallelRegion(t, group), 'whole', ofRank(rank, x), 'whole', sumOf(g)],
    ['reduceFrom', (t) => reduceFromTensorModelParallelRegion(t, group), 'whole', sumOf(x), 'whole', ofRank(rank, g)],
    [
      'scatterTo',
      (t) => scatterToTensorModelParallelRegion(t, group),
      'whole',
      own(ofRank(rank, x), 'columns'),
      'columns',
      join(g, 'columns'),
    ],
    [
      'gatherFrom',
      (t) => gatherFromTensorModelParallelRegion(t, group),
      'columns',
      join(x, 'columns'),
      'whole',
      own(ofRank(rank, g), 'columns'),
    ],
    [
      'scatterToSequence',
      (t) => scatterToSequenceParallelRegion(t, group),
      'whole',
      own(ofRank(rank, x), 'rows'),
      'rows',
      join(g, 'rows'),
    ],
    [
      'gatherFromSequence',
      (t) => gatherFromSequenceParallelRegion(t, group),
      'rows',
      join(x, 'rows'),
      'whole',
      own(sumOf(g), 'rows'),
    ],
    [
      'gatherFromSequence, copies',
      (t) => gatherFromSequenceParallelRegion(t, group, false),
      'rows',
      join(x, 'rows'),
      'whole',
      own(ofRank(rank, g), 'rows'),
    ],
    [
      'reduceScatterToSequence',
      (t) => reduceScatterToSequenceParallelRegion(t, group),
      'whole',
      own(sumOf(x), 'rows'),
      'rows',
      join(g, 'rows'),
    ],
  ];
  for (const [name, f, xLie, y, dyLie, dx] of cases) {
    scope(() => {
      const input = put(backend, ofRank(rank, x, xLie), localShape(shape, xLie, size));
      const recorded = record(() => f(input), [input]);
      if (size === 1) check.true(`${name}: a group of one is no op`, recorded.output === input);
      check.close(`${name}: forward`, readFloats(recorded.output), y);
      const [got] = recorded.backward(put(backend, ofRank(rank, g, dyLie), localShape(shape, dyLie, size)));
      check.close(`${name}: backward`, readFloats(got as Tensor), dx);
    });
  }
}

/** 53 entries, which no group divides; two targets are ignored. */
const vocab = 53;
const tokenIds = Array.from({ length: seq * batch }, (_, i) => (i * 37 + 11) % vocab);
const targetIds = tokenIds.map((_, i) => (i === 3 || i === 20 ? -1 : (i * 29 + 5) % vocab));
const numTargets = targetIds.filter((t) => t >= 0).length;

/** A tiny model of nothing but the vocabulary's layers: embedding with positions, tied head, in chunks of 16 rows. */
function vocabulary(check: Comparison, backend: Backend, parallel: Parallel): void {
  const runOn = (p: Parallel) => {
    const context = modelContext(backend, recipeNamed('fp32'), 5);
    const options = { init: { std: 0.3 }, numPositions: seq + 2 };
    const table = new VocabParallelEmbedding(context, 'e', vocab, 12, p, options);
    const untied = vocabParallelTable(context, 'h', vocab, 12, p, { init: { std: 0.3 } });
    const parameters = [...table.parameters(), untied];
    const results = [table.weight, untied].map((head) => {
      const loss = scope(() => {
        const tokens = integers(backend, [seq, batch], tokenIds);
        const targets = integers(backend, [seq, batch], targetIds);
        const lossOptions = { smoothing: 0.1, gradScale: 2, chunkBytes: 1 };
        const recorded = record(() =>
          parallelHeadLoss(table.forward(tokens, 1), head, targets, numTargets, p, lossOptions),
        );
        recorded.backward();
        return { wrap: readFloats(recorded.output) };
      }).wrap;
      const gradients = parameters.map((q) => {
        const values = q.grad ? readFloats(q.grad) : new Float32Array(q.size);
        if (q.sumGrad) p.mesh.tp.allReduce(values).wait();
        q.zeroGrad();
        return values;
      });
      return { loss, gradients };
    });
    return { parameters, results, release: () => parameters.forEach((q) => q.release()) };
  };
  const want = runOn(alone());
  const got = runOn(parallel);
  const name = `vocabulary${parallel.sequenceParallel ? ', sp' : ''}, ${backend.name}`;
  got.results.forEach(({ loss, gradients }, i) => {
    const kind = i === 0 ? 'tied' : 'untied';
    check.close(`${name}: ${kind} loss`, loss, want.results[i].loss);
    gradients.forEach((values, k) => {
      const p = got.parameters[k];
      check.close(`${name}: ${kind} gradient of ${p.name}`, values, partOf(p, want.results[i].gradients[k]));
    });
  });
  want.release();
  got.release();
}

/** Against the formula, in float64. */
function crossEntropy(check: Comparison, backend: Backend, group: Group, smoothing: number): void {
  const [begin, end] = vocabRange(vocab, group);
  const rows = seq * batch;
  scope(() => {
    const all = readFloats(normals(backend, [rows, vocab], 31));
    const part = all.filter((_, i) => i % vocab >= begin && i % vocab < end);
    const logits = put(backend, part, [seq, batch, end - begin]);
    const targets = integers(backend, [seq, batch], targetIds);
    const recorded = record(
      () => vocabParallelCrossEntropy(logits, targets, numTargets, vocab, group, smoothing),
      [logits],
    );
    let loss = 0;
    const gradient = new Float64Array(all.length);
    for (let r = 0; r < rows; r++) {
      if (targetIds[r] < 0) continue;
      const row = [...all.subarray(r * vocab, (r + 1) * vocab)];
      const lse = Math.log(row.reduce((s, v) => s + Math.exp(v), 0));
      const wanted = row.map((_, c) => (c === targetIds[r] ? 1 - smoothing : 0) + smoothing / vocab);
      row.forEach((v, c) => {
        loss += (wanted[c] * (lse - v)) / numTargets;
        gradient[r * vocab + c] = (Math.exp(v - lse) - wanted[c]) / numTargets;
      });
    }
    const name = `vocabParallelCrossEntropy, smoothing ${smoothing}`;
    check.close(`${name}: loss`, readFloats(recorded.output), Float32Array.of(loss));
    const [dx] = recorded.backward();
    const own = Float32Array.from(gradient).filter((_, i) => i % vocab >= begin && i % vocab < end);
    check.close(`${name}: gradient`, readFloats(dx as Tensor), own);
  });
}
