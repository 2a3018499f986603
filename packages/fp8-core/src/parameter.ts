// A parameter owns its weight, its master copy, its gradient and mu, each in the dtype that the recipe gives its kind.
import type { Backend } from './backend.ts';
import { dtypes } from './dtype.ts';
import { inCategory } from './memory.ts';
import { hashName } from './random.ts';
import type { AutoScale, ParamFormat, Recipe } from './recipe.ts';
import { ScalingState } from './scaling.ts';
import { type Shard, shardRuns, shardShape } from './shard.ts';
import { empty, persist, type Shape, scope, sizeOf, type Tensor } from './tensor.ts';

export type ParamKind = 'linear' | 'embedding' | 'vector';

/** Initial values: a constant, or normal with this standard deviation, the same for any layout of ranks. */
export type Init = { constant: number } | { std: number };

/** What modules are built in. */
export interface ModelContext {
  readonly backend: Backend;
  readonly recipe: Recipe;
  readonly seed: number;
  readonly scaling: ScalingState;
}

export function modelContext(backend: Backend, recipe: Recipe, seed = 0): ModelContext {
  return { backend, recipe, seed, scaling: new ScalingState(backend) };
}

/** How a parameter lies on the ranks of a tensor-parallel group; nothing of it on one rank. */
export interface ParameterLayout {
  /** The part that is here; absent where every rank holds the whole. */
  shard?: Shard | null;
  /** Every rank holds the whole but sees a part of what gives its gradient: sum the gradient over the group before use. */
  sumGrad?: boolean;
  /** Of a weight that first and last pipeline stage both hold: which copy this is. Their gradients are summed. */
  tied?: 'first' | 'last' | null;
}

export class Parameter {
  readonly name: string;
  readonly kind: ParamKind;
  /** Of what is here: the whole tensor, or this rank's part. */
  readonly shape: Shape;
  /** Of the whole tensor. */
  readonly wholeShape: Shape;
  /** The part that is here, or null for the whole. */
  readonly shard: Shard | null;
  /** See `ParameterLayout`. */
  readonly sumGrad: boolean;
  /** See `ParameterLayout`. */
  readonly tied: 'first' | 'last' | null;
  readonly format: ParamFormat;
  readonly autoScale: AutoScale | null;
  readonly backend: Backend;
  /** Weight decay applies to matrices only. */
  readonly decay: boolean;
  readonly data: Tensor;
  /** Null where there is none, or where another rank keeps it. */
  master: Tensor | null;
  /** Factor on the scale of an FP8 gradient, f32[1]; null for others. */
  readonly mu: Tensor | null;
  /** Times that an op has asked for the gradient since the last `zeroGrad`; how data parallelism learns when it is complete. */
  gradUses = 0;
  private gradient: Tensor | null = null;
  private started = false;
  /** Its first use in a step only adds, so `zeroGrad` zeroes it, together with those of the other parameters. */
  private addsFirst = false;
  private isZero = false;

  /** @param wholeShape shape of the whole tensor; `layout` says which part of it is made here */
  constructor(
    context: ModelContext,
    name: string,
    wholeShape: Shape,
    kind: ParamKind,
    init: Init,
    { shard = null, sumGrad = false, tied = null }: ParameterLayout = {},
  ) {
    const { backend, recipe } = context;
    const format = recipe[kind];
    if (shard && shard.shape.join() !== wholeShape.join())
      throw new RangeError(`parameter ${name}: a shard of [${shard.shape}] for a tensor of [${wholeShape}]`);
    const shape = shard ? shardShape(shard) : wholeShape;
    this.name = name;
    this.kind = kind;
    this.shape = shape;
    this.wholeShape = wholeShape;
    this.shard = shard;
    this.sumGrad = sumGrad;
    this.tied = tied;
    this.format = format;
    this.backend = backend;
    this.decay = kind !== 'vector';
    this.autoScale = format.grad === 'e4m3' ? recipe.autoScale : null;
    this.data = persist(() => inCategory('weights', () => empty(backend, shape, format.weight)));
    const { master } = format;
    this.master = master ? persist(() => inCategory('optimizer', () => empty(backend, shape, master))) : null;
    this.mu = this.autoScale ? persist(() => inCategory('gradients', () => empty(backend, [1], 'f32'))) : null;
    if (this.mu) backend.kernels.fill({ y: this.mu, n: 1, value: 1 });
    this.initialise(init, context.seed);
  }

  get size(): number {
    return sizeOf(this.shape);
  }

  /** The tensor that the optimizer updates: the master copy, or the weight where there is none. */
  get primary(): Tensor {
    return this.master ?? this.data;
  }

  /** The gradient of this step, or null before any was added. */
  get grad(): Tensor | null {
    return this.started ? this.gradient : null;
  }

  /**
   * The gradient's storage for a kernel that overwrites it on first use in a step and adds afterwards.
   * @returns the tensor and whether it already holds a part of this step's gradient
   */
  gradForAccumulation(): { grad: Tensor; accumulate: boolean } {
    const grad = this.gradStorage();
    const accumulate = this.started;
    this.started = true;
    this.addsFirst = this.isZero = false;
    this.gradUses++;
    return { grad, accumulate };
  }

  /** The gradient's storage, zeroed on first use in a step, for a kernel that always adds. Float32 gradients only. */
  gradForAdding(): Tensor {
    const { addsFirst, isZero } = this;
    const { grad, accumulate } = this.gradForAccumulation();
    if (!accumulate && !isZero) this.backend.kernels.fill({ y: grad, n: grad.size, value: 0 });
    this.addsFirst = addsFirst || !accumulate;
    return grad;
  }

  private gradStorage(): Tensor {
    this.gradient ??= persist(() => inCategory('gradients', () => empty(this.backend, this.shape, this.format.grad)));
    return this.gradient;
  }

  /** Forgets the gradient; its storage stays, zeroed at once if the next step will add to it. */
  zeroGrad(): void {
    // Rows that `keepGradRows` left are of no use to the next step.
    if (this.gradient && this.gradient.size !== this.size) this.releaseGrad();
    this.started = false;
    this.gradUses = 0;
    if (!this.gradient || !this.addsFirst || this.isZero) return;
    this.backend.kernels.fill({ y: this.gradient, n: this.size, value: 0 });
    this.isZero = true;
  }

  /** Frees the gradient, on a rank that does not own it. Its uses still count until `zeroGrad`. */
  releaseGrad(): void {
    this.started = this.isZero = false;
    this.gradient?.release();
    this.gradient = null;
  }

  /** Keeps rows [begin, end) of the master copy, on a rank that owns no more. */
  keepMasterRows(begin: number, end: number): void {
    if (this.master) this.master = keepRows(this.master, begin, end);
  }

  /** Keeps rows [begin, end) of the gradient until `zeroGrad`, on a rank that owns no more. */
  keepGradRows(begin: number, end: number): void {
    if (this.gradient) this.gradient = keepRows(this.gradient, begin, end);
  }

  /** Frees the master copy, on a rank that does not own it: it gets its weights from the owner. */
  releaseMaster(): void {
    this.master?.release();
    this.master = null;
  }

  /**
   * Writes float32 values (as loaded or drawn) into the master and the weight. The parts of a sharded parameter get one scale,
   * so all ranks that hold one must call it together.
   * @param values [size] f32
   */
  assign(values: Tensor): void {
    const { kernels } = this.backend;
    const n = this.size;
    const put = (y: Tensor, x: Tensor): void => {
      if (!dtypes[y.dtype].scaled) kernels.cast({ y, x, n, random: 0 });
      else if (!this.shard) kernels.quantize({ y, x, n, random: 0 });
      else scope(() => kernels.quantize({ y, x, known: this.wholeAmax(x), n, random: 0 }));
    };
    put(this.primary, values);
    if (this.master) put(this.data, this.master);
  }

  /** Amax over all ranks' parts, f32 [1]. */
  private wholeAmax(x: Tensor): Tensor {
    const y = empty(this.backend, [1], 'f32');
    this.backend.kernels.amax({ y, x, n: x.size });
    const value = new Float32Array(1);
    const bytes = new Uint8Array(value.buffer);
    this.backend.read(y.handle, bytes);
    this.shard?.group.reduceMax(value);
    this.backend.write(y.handle, bytes);
    return y;
  }

  private initialise(init: Init, seed: number): void {
    const { kernels } = this.backend;
    const n = this.size;
    // By chunks of rows would need a second pass for the amax; one float32 temporary of the largest parameter is cheaper.
    scope(() => {
      const values = empty(this.backend, this.shape, 'f32');
      if ('constant' in init) kernels.fill({ y: values, n, value: init.constant });
      else {
        const stream = hashName(this.name);
        const draw = (y: Tensor, offset: number): void =>
          kernels.random_normal({ y, n: y.size, std: init.std, seed, stream, offset });
        if (this.shard) this.drawRuns(values, this.shard, draw);
        else draw(values, 0);
      }
      this.assign(values);
    });
  }

  /** Element i of the whole tensor is value i of the parameter's stream, on any layout. */
  private drawRuns(values: Tensor, shard: Shard, draw: (y: Tensor, offset: number) => void): void {
    const flat = values.reshape(values.size);
    for (const { whole, local, length } of shardRuns(shard)) {
      scope(() => draw(flat.slice(local, local + length), whole));
    }
  }

  release(): void {
    for (const t of [this.data, this.master, this.mu, this.gradient]) t?.release();
    this.gradient = null;
  }
}

/** Rows [begin, end) of a tensor in memory of their own; the tensor is released. */
function keepRows(whole: Tensor, begin: number, end: number): Tensor {
  if (end - begin === whole.shape[0]) return whole;
  const { backend, category, dtype } = whole;
  const own = persist(() => inCategory(category, () => empty(backend, [end - begin, ...whole.shape.slice(1)], dtype)));
  scope(() => backend.copy(own.handle, whole.slice(begin, end).handle));
  whole.release();
  return own;
}
