// A toy model on a pipeline: an embedding, linear layers with GELU, a head. Each rank reports its losses and gradients.
import {
  embedding,
  empty,
  gelu,
  headLoss,
  hashName,
  Linear,
  ledger,
  modelContext,
  Parameter,
  persist,
  record,
  recipeNamed,
  referenceBackend,
  scope,
  type Tensor,
} from 'fp8-core';
import { type Communicator, Group, Pipeline, type PipelineProgram, type ScheduleOptions } from '../../src/index.ts';

export interface Job {
  options: Omit<ScheduleOptions, 'stages'>;
  recipe: string;
  numLayers: number;
  /** FP8 between stages. */
  fp8?: boolean;
  steps?: number;
  /** Rank that throws in the middle of its step. */
  fails?: number;
}

export interface Outcome {
  losses: number[];
  gradients: Record<string, number[]>;
  /** Bytes of activations alive after the steps. */
  left: number;
  /** Peak bytes of activations. */
  peak: number;
  spans: number;
}

const [seq, batch, dim, vocab] = [4, 2, 16, 24];

/** The model's parts, layers split evenly over `places`; only those of `own` are built. */
function build(job: Job, places: number, own: readonly number[]) {
  const context = modelContext(referenceBackend(), recipeNamed(job.recipe), 7);
  const perPlace = job.numLayers / places;
  const chunks = own.map((place) => ({
    place,
    wte: place === 0 ? new Parameter(context, 'wte', [vocab, dim], 'embedding', { std: 0.5 }) : null,
    layers: Array.from(
      { length: perPlace },
      (_, i) => new Linear(context, `l${place * perPlace + i}`, dim, dim, { init: { std: 0.4 } }),
    ),
    head: place === places - 1 ? new Parameter(context, 'head', [vocab, dim], 'embedding', { std: 0.5 }) : null,
  }));
  const parameters = chunks.flatMap((c) => [
    ...(c.wte ? [c.wte] : []),
    ...c.layers.flatMap((l) => [l.weight, ...(l.bias ? [l.bias] : [])]),
    ...(c.head ? [c.head] : []),
  ]);
  return { context, chunks, parameters };
}

/** Runs the jobs one after the other: threads are slow to start. */
export default function run(comm: Communicator, jobs: readonly Job[]): Outcome[] {
  return jobs.map((job) => runOn(comm.world, job));
}

export function runOn(group: Group, job: Job): Outcome {
  const { options } = job;
  const virtual = options.virtual ?? 1;
  const places = group.size * virtual;
  const own = Array.from({ length: virtual }, (_, c) => c * group.size + group.rank);
  const { context, chunks, parameters } = build(job, places, own);
  const { backend, recipe } = context;
  const before = ledger.live.activations;
  ledger.resetPeak();
  const tokens = (micro: number, shift: number): Tensor => {
    const values = Int32Array.from({ length: seq * batch }, (_, i) => hashName(`${micro} ${i + shift}`) % vocab);
    const t = empty(backend, [seq, batch], 'i32');
    backend.write(t.handle, new Uint8Array(values.buffer));
    return t;
  };
  const losses: number[] = [];
  let done = 0;
  const program: PipelineProgram = {
    forward(micro, chunk, x) {
      if (group.rank === job.fails && ++done === 3) throw new Error('a bug in a stage');
      const { wte, layers, head } = chunks[chunk];
      const input = x ?? tokens(micro, 0);
      const body = (): Tensor => {
        let h = wte ? embedding(input, wte, null, recipe.act) : input;
        for (const layer of layers) h = gelu(layer.forward(h), null);
        return head ? headLoss(h, head, tokens(micro, batch), seq * batch) : h;
      };
      return record(body, x ? [x] : []);
    },
    backward(run, dy, _micro, chunk) {
      if (chunks[chunk].head) {
        const value = new Float32Array(1);
        backend.read(run.output.handle, new Uint8Array(value.buffer));
        losses.push(value[0]);
      }
      return run.backward(dy)[0] ?? null;
    },
  };
  const pipeline = new Pipeline(group);
  const boundary = {
    backend,
    shape: [seq, batch, dim],
    dtype: recipe.act,
    ...(job.fp8 ? ({ activations: 'e4m3', gradients: 'e5m2' } as const) : {}),
  };
  let spans = 0;
  for (let step = 0; step < (job.steps ?? 1); step++) {
    const trace = scope(() => pipeline.run(options, program, boundary));
    spans += trace.spans.length;
  }
  const gradients = Object.fromEntries(
    parameters.map((p) => {
      const g = p.grad as Tensor;
      const values = persist(() => empty(backend, g.shape, 'f32'));
      backend.kernels.cast({ y: values, x: g, n: g.size, random: 0 });
      const floats = new Float32Array(g.size);
      backend.read(values.handle, new Uint8Array(floats.buffer));
      values.release();
      return [p.name, [...floats]];
    }),
  );
  return {
    losses,
    gradients,
    left: ledger.live.activations - before,
    peak: ledger.peak.activations - before,
    spans,
  };
}
