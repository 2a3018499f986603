// Runs a schedule's list on one rank: computes, sends and receives boundary tensors, and frees what is done with.
//
// Several micro-batches are alive at a time: each forward is a Run of its own (tape.ts), kept until its backward. An input belongs
// to the run's ops once the forward is over, an output is freed as soon as the message is out: backward needs its shape alone.
// Activations and gradients travel in groups of their own, so that a schedule may order them as it likes; within one direction
// both sides follow the same order (checked by the simulator). Every wait has a deadline, which is the work's.
import { type ActDType, empty, type Fp8DType, persist, Run, type Shape, Tensor } from 'fp8-core';
import type { Backend } from 'fp8-core';
import type { Group } from '../group.ts';
import type { Work } from '../work.ts';
import {
  type Instruction,
  nextPlace,
  planSchedule,
  previousPlace,
  schedule,
  type ScheduleOptions,
} from './schedule.ts';
import type { Span } from './simulate.ts';

/** What the chunks of a rank compute; micro-batches and chunks are numbered as in the schedule. */
export interface PipelineProgram {
  /**
   * A chunk's forward, recorded if there will be a backward.
   * @param x the boundary tensor from the place before, to be watched by the run; null at the first place
   * @returns the run, or without a backward its output; the last place returns the loss, all others a boundary tensor
   */
  forward(micro: number, chunk: number, x: Tensor | null): Run | Tensor;
  /**
   * A chunk's backward.
   * @param dy gradient of the run's output; null at the last place
   * @returns the gradient of the input; null at the first place
   */
  backward?(run: Run, dy: Tensor | null, micro: number, chunk: number): Tensor | null;
}

/** The tensor between two places. */
export interface Boundary {
  backend: Backend;
  /** [T, B, C], or a sequence shard of it. */
  shape: Shape;
  dtype: ActDType;
  /** FP8 dtype of activations on the wire; null sends them as they are. */
  activations?: Fp8DType | null;
  /** The same of their gradients. */
  gradients?: Fp8DType | null;
}

/** Where a step's time went on this rank, in milliseconds. */
export interface PipelineTrace {
  /** Forwards and backwards in order, in milliseconds since the step began. */
  spans: Span[];
  /** Time asleep until a message was there or gone. */
  waitMs: number;
  stepMs: number;
  /** When the step began, in milliseconds since 1970: ranks of one machine can be laid side by side. */
  beganAt: number;
}

/** A list and the options it was made with. */
interface List {
  key: string;
  instructions: Instruction[];
}

export class Pipeline {
  /** The ranks of the pipeline, first stage first. */
  readonly group: Group;
  private readonly activations: Group;
  private readonly gradients: Group;
  private readonly lists: List[] = [];

  /** All ranks of `group` must call it together. */
  constructor(group: Group) {
    this.group = group;
    this.activations = group.split(0, group.rank, `${group.name} activations`) as Group;
    this.gradients = group.split(0, group.rank, `${group.name} gradients`) as Group;
    const stages = group.ranks.map((_, rank) => rank);
    const after = (rank: number) => (rank + 1) % group.size;
    this.activations.openLanes(stages.map((rank) => [rank, after(rank)] as const));
    this.gradients.openLanes(stages.map((rank) => [after(rank), rank] as const));
  }

  /**
   * Runs one step: every micro-batch through every chunk of this rank.
   * @throws DistError if a neighbour fails or a message does not come in time; whatever the program throws
   */
  run(options: Omit<ScheduleOptions, 'stages'>, program: PipelineProgram, boundary: Boundary): PipelineTrace {
    const full = { ...options, stages: this.group.size };
    const step = new Step(full, this.group, this.activations, this.gradients, program, boundary);
    return step.run(this.listOf(full));
  }

  private listOf(options: ScheduleOptions): Instruction[] {
    const key = JSON.stringify(planSchedule(options));
    let list = this.lists.find((l) => l.key === key);
    if (!list) {
      list = { key, instructions: schedule(options, this.group.rank) };
      this.lists.push(list);
      if (this.lists.length > 4) this.lists.shift();
    }
    return list.instructions;
  }
}

/** A boundary tensor on its way: what travels, and who waits for it. */
interface Parcel {
  tensor: Tensor;
  work: Work;
}

class Step {
  private readonly plan: ReturnType<typeof planSchedule>;
  private readonly rank: number;
  private readonly activations: Group;
  private readonly gradients: Group;
  private readonly program: PipelineProgram;
  private readonly boundary: Boundary;
  private readonly runs = new Map<string, Run>();
  private readonly inbox = new Map<string, Parcel>();
  private readonly outbox = new Map<string, Parcel>();
  /** Outputs and gradients that were computed and not yet sent. */
  private readonly made = new Map<string, Tensor>();
  private readonly began = performance.now();
  private readonly trace: PipelineTrace = {
    spans: [],
    waitMs: 0,
    stepMs: 0,
    beganAt: performance.timeOrigin + this.began,
  };

  constructor(
    options: ScheduleOptions,
    group: Group,
    activations: Group,
    gradients: Group,
    program: PipelineProgram,
    boundary: Boundary,
  ) {
    this.plan = planSchedule(options);
    this.rank = group.rank;
    this.activations = activations;
    this.gradients = gradients;
    this.program = program;
    this.boundary = boundary;
  }

  run(list: readonly Instruction[]): PipelineTrace {
    try {
      for (const instruction of list) this.execute(instruction);
    } catch (error) {
      this.abandon();
      throw error;
    }
    this.trace.stepMs = performance.now() - this.began;
    return this.trace;
  }

  private execute({ op, micro, chunk }: Instruction): void {
    const here = { rank: this.rank, chunk };
    const before = previousPlace(this.plan, here);
    const after = nextPlace(this.plan, here);
    const key = `${micro}/${chunk}`;
    switch (op) {
      case 'recvForward':
        return this.receive(`forward ${key}`, this.activations, before?.rank, this.boundary.activations);
      case 'recvBackward':
        return this.receive(`backward ${key}`, this.gradients, after?.rank, this.boundary.gradients);
      case 'sendForward':
        return this.send(`forward ${key}`, this.activations, after?.rank, this.boundary.activations);
      case 'sendBackward':
        return this.send(`backward ${key}`, this.gradients, before?.rank, this.boundary.gradients);
      case 'freeForward':
        return this.free(`forward ${key}`);
      case 'freeBackward':
        return this.free(`backward ${key}`);
      case 'forward': {
        const x = before ? this.open(`forward ${key}`) : null;
        this.timed(op, micro, chunk, () => this.forward(micro, chunk, key, x, after !== null));
        x?.release();
        return;
      }
      case 'backward': {
        const dy = after ? this.open(`backward ${key}`) : null;
        this.timed(op, micro, chunk, () => this.backward(micro, chunk, key, dy, before !== null));
        dy?.release();
        return;
      }
      default:
        op satisfies never;
    }
  }

  private forward(micro: number, chunk: number, key: string, x: Tensor | null, goesOn: boolean): void {
    const { result, output } = persist(() => {
      const made = this.program.forward(micro, chunk, x);
      // An output that is the input itself (a chunk without layers) needs a reference of its own.
      const out = made instanceof Run ? made.output : made;
      return { result: made, output: out === x ? out.reshape(...out.shape) : out };
    });
    if (result instanceof Run) this.runs.set(key, result);
    if (!goesOn) {
      // The loss is where backward begins; it is freed there.
      if (!(result instanceof Run)) output.release();
      return;
    }
    this.checkBoundary(output, `forward of micro-batch ${micro}, chunk ${chunk}`);
    this.made.set(`forward ${key}`, output);
  }

  private backward(micro: number, chunk: number, key: string, dy: Tensor | null, goesOn: boolean): void {
    const run = this.runs.get(key);
    if (!run || !this.program.backward) throw new Error(`internal: backward of ${key} before its forward`);
    this.runs.delete(key);
    const dx = persist(() => this.program.backward?.(run, dy, micro, chunk) ?? null);
    if (!dy) run.output.release();
    if (!goesOn) return void dx?.release();
    if (!dx) throw new Error(`internal: chunk ${chunk} gave no gradient of its input`);
    this.checkBoundary(dx, `backward of micro-batch ${micro}, chunk ${chunk}`);
    this.made.set(`backward ${key}`, dx);
  }

  private checkBoundary(t: Tensor, what: string): void {
    const { shape, dtype } = this.boundary;
    if (t.dtype !== dtype || t.shape.join() !== shape.join())
      throw new TypeError(`pipeline: ${what} made ${t}, but ${dtype}[${shape}] goes between stages`);
  }

  // --- messages ----------------------------------------------------------------------------------------------------------------

  private receive(key: string, group: Group, from: number | undefined, wire: Fp8DType | null = null): void {
    const { backend, shape, dtype } = this.boundary;
    const tensor = persist(() => empty(backend, shape, wire ?? dtype));
    this.inbox.set(key, { tensor, work: group.recv(tensor, from as number) });
  }

  /** The received tensor, in the activation dtype; the caller releases it. */
  private open(key: string): Tensor {
    const { tensor, work } = this.inbox.get(key) as Parcel;
    this.wait(work);
    this.inbox.delete(key);
    const { dtype, backend } = this.boundary;
    if (tensor.dtype === dtype) return tensor;
    const y = persist(() => empty(backend, tensor.shape, dtype));
    backend.kernels.cast({ y, x: tensor, n: y.size, random: 0 });
    tensor.release();
    return y;
  }

  private send(key: string, group: Group, to: number | undefined, wire: Fp8DType | null = null): void {
    const made = this.made.get(key) as Tensor;
    this.made.delete(key);
    let tensor = made;
    if (wire) {
      tensor = persist(() => empty(made.backend, made.shape, wire));
      made.backend.kernels.quantize({ y: tensor, x: made, n: made.size, random: 0 });
      made.release();
    }
    this.outbox.set(key, { tensor, work: group.send(tensor, to as number) });
  }

  private free(key: string): void {
    const { tensor, work } = this.outbox.get(key) as Parcel;
    this.wait(work);
    this.outbox.delete(key);
    tensor.release();
  }

  private wait(work: Work): void {
    const begin = performance.now();
    work.wait();
    this.trace.waitMs += performance.now() - begin;
  }

  private timed(op: Span['op'], micro: number, chunk: number, body: () => void): void {
    const begin = performance.now() - this.began;
    body();
    this.trace.spans.push({ op, micro, chunk, begin, end: performance.now() - this.began });
  }

  private isLast(key: string): boolean {
    const chunk = Number(key.slice(key.indexOf('/') + 1));
    return nextPlace(this.plan, { rank: this.rank, chunk }) === null;
  }

  /** After a failure: lets go of everything but what messages under way still hold. */
  private abandon(): void {
    for (const [key, run] of this.runs) {
      run.release();
      if (this.isLast(key)) run.output.release();
    }
    for (const t of this.made.values()) t.release();
    for (const { tensor } of [...this.inbox.values(), ...this.outbox.values()]) tensor.release();
  }
}
