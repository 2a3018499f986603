// Reverse-mode differentiation as a value: `const run = record(() => f(x), [x]); const [dx] = run.backward(dy)`.
//
// While `fn` runs, every op appends a node (itself, what it saved, which tensors it read, which it made). `backward` walks the
// nodes once, last first, and frees what each saved as soon as it was used. Several runs may be alive at a time: a pipeline
// schedule keeps one a micro-batch. There are no second derivatives and no gradients of parameters here: an op that reads a
// Parameter adds to that parameter's gradient itself, in the parameter's own dtype.
import { emptyLike, persist, scope, Tensor, watchScope } from './tensor.ts';

/** What an op keeps from forward to backward. */
export class OpContext {
  readonly saved: Tensor[] = [];
  /** Plain values that backward needs (shapes, flags, modules). */
  state: unknown = undefined;
  /** Whether each tensor input wants a gradient; all false outside of `record`. */
  wants: readonly boolean[] = [];
  private readonly recording: boolean;
  private pending: readonly (Tensor | undefined)[] = [];
  private takenMask = 0;

  constructor(recording: boolean) {
    this.recording = recording;
  }

  /** Keeps tensors alive until this op's backward has run; does nothing when nobody records. */
  save(...tensors: Tensor[]): void {
    if (!this.recording) return;
    for (const t of tensors) {
      this.saved.push(t.retain());
      kept.add(t.id);
    }
  }

  /** Whether an earlier op of the recording keeps `t` anyway, at least until this op's backward. */
  isKept(t: Tensor): boolean {
    return this.recording && kept.has(t.id);
  }

  /**
   * The gradient that other users of input `i` have left so far. An op that takes it must return it included in its own
   * gradient; this fuses the addition of a residual branch into the op's kernel.
   */
  takePending(i: number): Tensor | null {
    const tensor = this.pending[i];
    if (!tensor) return null;
    this.takenMask |= 1 << i;
    return tensor;
  }

  /** For the tape alone. */
  beginBackward(pending: readonly (Tensor | undefined)[]): void {
    this.pending = pending;
    this.takenMask = 0;
  }

  tookPending(i: number): boolean {
    return (this.takenMask & (1 << i)) !== 0;
  }

  releaseSaved(): void {
    for (const t of this.saved) t.release();
    this.saved.length = 0;
  }
}

interface Node {
  op: OpDefinition<never>;
  context: OpContext;
  inputs: number[];
  output: number;
}

export interface OpDefinition<A extends unknown[]> {
  name: string;
  /** Computes the output; tensors among `args` are the differentiable inputs. */
  forward(context: OpContext, ...args: A): Tensor;
  /** One gradient (or null) for each tensor among the arguments, in order. */
  backward(context: OpContext, dy: Tensor): (Tensor | null)[];
}

let tape: Node[] | null = null;
let tracked = new Set<number>();
let kept = new Set<number>();
let training = false;

/** True inside `record` (also where recording is suspended for recomputation) and `backward`: delayed scaling records amaxes only here. */
export const isTraining = (): boolean => training;

/** Makes a function of an op: calls it, and appends it to the running tape if there is one. */
export function defineOp<A extends unknown[]>(op: OpDefinition<A>): (...args: A) => Tensor {
  return (...args: A): Tensor => {
    const context = new OpContext(tape !== null);
    if (!tape) return scope(() => op.forward(context, ...args));
    const inputs = args.filter((a): a is A[number] & Tensor => a instanceof Tensor).map((t) => t.id);
    context.wants = inputs.map((id) => tracked.has(id));
    let output: Tensor;
    try {
      output = scope(() => op.forward(context, ...args));
    } catch (error) {
      context.releaseSaved();
      throw error;
    }
    tracked.add(output.id);
    tape.push({ op: op as unknown as OpDefinition<never>, context, inputs, output: output.id });
    return output;
  };
}

/** A recorded forward pass that can be differentiated once. */
export class Run<T extends Tensor = Tensor> {
  readonly output: T;
  private nodes: Node[];
  private readonly watched: readonly Tensor[];

  constructor(output: T, nodes: Node[], watched: readonly Tensor[]) {
    this.output = output;
    this.nodes = nodes;
    this.watched = watched;
  }

  /**
   * Runs backward and frees what the ops saved.
   * @param dy gradient of the output, same shape; null for a scalar loss whose gradient is 1 by construction
   * @param afterOp called after each op's backward, when some parameters' gradients may have become complete
   * @returns the gradients of the watched inputs, null where the output does not depend on one
   */
  backward(dy: Tensor | null = null, afterOp?: () => void): (Tensor | null)[] {
    const nodes = this.nodes;
    this.nodes = [];
    const gradients = new Map<number, Tensor>();
    gradients.set(this.output.id, dy ? dy.retain() : this.output.retain());
    const outer = training;
    training = true;
    try {
      for (let node = nodes.pop(); node; node = nodes.pop()) {
        const { op, context, inputs, output } = node;
        const g = gradients.get(output);
        if (g) {
          gradients.delete(output);
          const before = inputs.map((id) => gradients.get(id));
          context.beginBackward(before);
          const results = owned(() => op.backward(context, g));
          results.forEach((dx, i) => {
            if (!dx) return;
            if (!context.wants[i]) return dx.release();
            const prior = gradients.get(inputs[i]);
            if (prior && !context.tookPending(i)) gradients.set(inputs[i], addInto(prior, dx));
            else {
              prior?.release();
              gradients.set(inputs[i], dx);
            }
          });
          g.release();
        }
        context.releaseSaved();
        afterOp?.();
      }
      return this.watched.map((t) => {
        const g = gradients.get(t.id);
        return g ? scope(() => g.slice(0, g.shape[0])) : null;
      });
    } finally {
      training = outer;
      for (const g of gradients.values()) g.release();
      for (const node of nodes) node.context.releaseSaved();
    }
  }

  /** Frees what was saved without a backward pass. */
  release(): void {
    for (const node of this.nodes) node.context.releaseSaved();
    this.nodes = [];
  }
}

/** Runs `fn`; each tensor occurrence that it returns then belongs to the caller by one reference. */
function owned(fn: () => (Tensor | null)[]): (Tensor | null)[] {
  return persist(() => {
    const { made, result } = watchScope(fn);
    const taken = new Set<Tensor>();
    for (const t of result) {
      if (t && (!made.includes(t) || taken.has(t))) t.retain();
      if (t) taken.add(t);
    }
    return result;
  });
}

/** a + b, into a's bytes when nobody else holds them; takes over both references. */
function addInto(a: Tensor, b: Tensor): Tensor {
  const sum = a.isSole ? a : b.isSole ? b : null;
  const { kernels } = a.backend;
  if (sum) {
    kernels.add({ y: sum, a, b, n: a.size });
    (sum === a ? b : a).release();
    return sum;
  }
  const y = persist(() => emptyLike(a));
  kernels.add({ y, a, b, n: a.size });
  a.release();
  b.release();
  return y;
}

/** Records the ops of `fn` on a tape of their own. Gradients flow to `watched` tensors and to parameters. */
export function record<T extends Tensor>(fn: () => T, watched: readonly Tensor[] = []): Run<T> {
  const outer = { tape, tracked, kept, training };
  const nodes: Node[] = [];
  tape = nodes;
  tracked = new Set(watched.map((t) => t.id));
  kept = new Set();
  training = true;
  try {
    return new Run(fn(), nodes, watched);
  } catch (error) {
    for (const node of nodes) node.context.releaseSaved();
    throw error;
  } finally {
    ({ tape, tracked, kept, training } = outer);
  }
}

/** Runs `fn` without recording, whatever records around it; `isTraining` stays as it is. */
export function withoutTape<T>(fn: () => T): T {
  const outer = tape;
  tape = null;
  try {
    return fn();
  } finally {
    tape = outer;
  }
}
