// A parameter owns its weight, its master copy, its gradient and mu, each in the dtype that the recipe gives its kind.
import type { Backend } from './backend.ts';
import { dtypes } from './dtype.ts';
import { inCategory } from './memory.ts';
import { hashName } from './random.ts';
import type { AutoScale, ParamFormat, Recipe } from './recipe.ts';
import { ScalingState } from './scaling.ts';
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

export class Parameter {
  readonly name: string;
  readonly kind: ParamKind;
  readonly shape: Shape;
  readonly format: ParamFormat;
  readonly autoScale: AutoScale | null;
  readonly backend: Backend;
  /** Weight decay applies to matrices only. */
  readonly decay: boolean;
  readonly data: Tensor;
  readonly master: Tensor | null;
  /** Factor on the scale of an FP8 gradient, f32[1]; null for others. */
  readonly mu: Tensor | null;
  private gradient: Tensor | null = null;
  private started = false;

  constructor(context: ModelContext, name: string, shape: Shape, kind: ParamKind, init: Init) {
    const { backend, recipe } = context;
    const format = recipe[kind];
    this.name = name;
    this.kind = kind;
    this.shape = shape;
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
    return { grad, accumulate };
  }

  /** The gradient's storage, zeroed on first use in a step, for a kernel that always adds. Float32 gradients only. */
  gradForAdding(): Tensor {
    const { grad, accumulate } = this.gradForAccumulation();
    if (!accumulate) this.backend.kernels.fill({ y: grad, n: grad.size, value: 0 });
    return grad;
  }

  private gradStorage(): Tensor {
    this.gradient ??= persist(() => inCategory('gradients', () => empty(this.backend, this.shape, this.format.grad)));
    return this.gradient;
  }

  /** Forgets the gradient; its storage stays. */
  zeroGrad(): void {
    this.started = false;
  }

  /** Writes float32 values (as loaded or drawn) into the master and the weight. @param values [size] f32 */
  assign(values: Tensor): void {
    const { kernels } = this.backend;
    const n = this.size;
    const put = (y: Tensor, x: Tensor): void => {
      if (dtypes[y.dtype].scaled) kernels.quantize({ y, x, n, random: 0 });
      else kernels.cast({ y, x, n, random: 0 });
    };
    put(this.primary, values);
    if (this.master) put(this.data, this.master);
  }

  private initialise(init: Init, seed: number): void {
    const { kernels } = this.backend;
    const n = this.size;
    // By chunks of rows would need a second pass for the amax; one float32 temporary of the largest parameter is cheaper.
    scope(() => {
      const values = empty(this.backend, this.shape, 'f32');
      if ('constant' in init) kernels.fill({ y: values, n, value: init.constant });
      else kernels.random_normal({ y: values, n, std: init.std, seed, stream: hashName(this.name), offset: 0 });
      this.assign(values);
    });
  }

  release(): void {
    for (const t of [this.data, this.master, this.mu, this.gradient]) t?.release();
    this.gradient = null;
  }
}
