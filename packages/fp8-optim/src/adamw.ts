// AdamW over states of any dtype. The arithmetic is one fused kernel a parameter (kernels.def: `adamw`): moments and weight
// are read in their stored dtypes, updated in float32 with the un-quantised new moments, and stored with new just-in-time
// scales. Bytes a linear parameter: 16 in fp32, 18 in bf16 (with its BF16 copy), 6 in FP8-LM's O2.
//
// A tensor of which several ranks update a part keeps one scale: the kernel first measures on all ranks, the largest amaxes of
// all parts are found in one exchange, then it applies with these. Parts thus get the bits that one rank would give the whole.
import { type Backend, empty, inCategory, type Parameter, persist, scope, sizeOf, type Tensor } from 'fp8-core';
import { alone, type OptimizerExchange, type Rows } from './exchange.ts';

export interface AdamWOptions {
  /** beta1, beta2. FP8-LM trains with 0.9 and 0.95. */
  betas?: readonly [number, number];
  eps?: number;
  /** Decoupled: p *= 1 - lr * weightDecay. Matrices only. */
  weightDecay?: number;
  /** Gradients are scaled down to this global L2 norm, FP8 ones too; 0 switches clipping off. */
  maxGradNorm?: number;
}

/** What one optimizer step saw. */
export interface StepResult {
  /** Global L2 norm before clipping. */
  gradNorm: number;
  /** True when the norm was not finite: weights, moments, windows and mu are as before. */
  skipped: boolean;
}

/** First and second moment of one parameter, as far as this rank updates it. */
export interface Moments {
  m: Tensor;
  v: Tensor;
  /** Rows of the parameter that they belong to. */
  rows: Rows;
}

export class AdamW {
  readonly parameters: readonly Parameter[];
  readonly options: Required<AdamWOptions>;
  readonly exchange: OptimizerExchange;
  /** Of the parameters that this rank updates: all of them, or under ZeRO those it owns. */
  readonly moments = new Map<Parameter, Moments>();
  /** f32 [4]: clip coefficient, norm, skip, steps taken. Lives on the device, so that kernels need no host. */
  readonly control: Tensor;
  private readonly backend: Backend;
  private readonly sums: Tensor;
  private readonly sumOf: Tensor[];

  /** @param exchange what several ranks tell each other in a step; alone by default */
  constructor(parameters: readonly Parameter[], options: AdamWOptions = {}, exchange: OptimizerExchange = alone) {
    const { betas = [0.9, 0.95], eps = 1e-8, weightDecay = 0.1, maxGradNorm = 1 } = options;
    if (parameters.length === 0) throw new RangeError('AdamW: there are no parameters to optimise');
    for (const beta of betas)
      if (!(beta >= 0 && beta < 1)) throw new RangeError(`AdamW: beta ${beta}; need 0 <= beta < 1`);
    this.options = { betas, eps, weightDecay, maxGradNorm };
    this.parameters = parameters;
    this.exchange = exchange;
    this.backend = parameters[0].backend;
    const { kernels } = this.backend;
    const make = (shape: readonly number[], dtype: Tensor['dtype']): Tensor =>
      persist(() => inCategory('optimizer', () => empty(this.backend, shape, dtype)));
    for (const p of parameters) {
      const rows = exchange.ownedRows(p);
      if (!rows) continue;
      const shape = [rows[1] - rows[0], ...p.shape.slice(1)];
      const state = { m: make(shape, p.format.m), v: make(shape, p.format.v), rows };
      for (const y of [state.m, state.v]) kernels.fill({ y, n: y.size, value: 0 });
      this.moments.set(p, state);
    }
    this.control = make([4], 'f32');
    kernels.fill({ y: this.control, n: 4, value: 0 });
    this.sums = make([parameters.length], 'f32');
    this.sumOf = parameters.map((_, i) => persist(() => this.sums.slice(i, i + 1)));
  }

  /** Steps taken so far, skipped ones not counted. */
  get stepsTaken(): number {
    return this.readControl()[3];
  }

  /**
   * Updates every parameter that has a gradient. All ranks see the same norm, and so clip and skip alike.
   * @param lr learning rate of this step
   */
  step(lr: number): StepResult {
    this.measureNorm();
    const parts = new Set(this.parameters.filter((p) => this.exchange.sharesScale(p)));
    for (const [p, moments] of this.moments) if (!parts.has(p)) this.update(p, moments, lr, 0, null);
    const [, gradNorm, skip] = this.readControl();
    if (skip) return { gradNorm, skipped: true };
    if (parts.size) this.updateParts([...parts], lr);
    this.updateAutoScale(parts);
    this.exchange.publish();
    return { gradNorm, skipped: false };
  }

  /** The global norm, and what follows from it, into `control`. */
  private measureNorm(): void {
    const { kernels } = this.backend;
    kernels.fill({ y: this.sums, n: this.sums.size, value: 0 });
    this.parameters.forEach((p, i) => {
      const rows = this.exchange.measuredRows(p);
      const { grad } = p;
      if (rows && grad) withRows(p, rows, [grad], ([x]) => kernels.sum_squares({ y: this.sumOf[i], x, n: x.size }));
    });
    this.exchange.sum(this.sums);
    kernels.clip_control({
      control: this.control,
      sums: this.sums,
      count: this.parameters.length,
      max_norm: this.options.maxGradNorm,
    });
  }

  /** @param phase 0: all of it; 1: only measures amaxes; 2: applies with the amaxes of all parts */
  private update(p: Parameter, { m, v, rows }: Moments, lr: number, phase: 0 | 1 | 2, amaxes: Tensor | null): void {
    if (!p.grad) return;
    const { betas, eps, weightDecay } = this.options;
    withRows(p, rows, [p.grad, p.data], ([grad, w]) => {
      this.backend.kernels.adamw({
        w,
        master: p.master,
        grad,
        m,
        v,
        control: this.control,
        amaxes,
        n: m.size,
        phase,
        lr,
        beta1: betas[0],
        beta2: betas[1],
        eps,
        weight_decay: p.decay ? weightDecay : 0,
      });
    });
  }

  /** Tensors of which other ranks update other parts: measure, exchange the amaxes, apply. */
  private updateParts(parts: readonly Parameter[], lr: number): void {
    scope(() => {
      const values = new Float32Array(3 * parts.length);
      const bytes = new Uint8Array(values.buffer);
      const amaxes = empty(this.backend, [values.length], 'f32');
      this.backend.kernels.fill({ y: amaxes, n: amaxes.size, value: 0 });
      const eachOwned = (phase: 1 | 2): void =>
        parts.forEach((p, i) => {
          const moments = this.moments.get(p);
          if (moments) this.update(p, moments, lr, phase, amaxes.slice(3 * i, 3 * i + 3));
        });
      eachOwned(1);
      this.backend.read(amaxes.handle, bytes);
      this.exchange.maxOverParts(values);
      this.backend.write(amaxes.handle, bytes);
      eachOwned(2);
    });
  }

  /** Lets mu of each FP8 gradient follow its saturation (FP8-LM, section 2.1), of a tensor in parts that of all parts. */
  private updateAutoScale(parts: ReadonlySet<Parameter>): void {
    const { kernels } = this.backend;
    for (const p of this.moments.keys()) {
      const { mu, grad, autoScale, size } = p;
      if (mu && grad && autoScale && !parts.has(p)) kernels.mu_update({ mu, x: grad, n: size, ...autoScale });
    }
    const scaled = [...parts].filter((p) => p.mu);
    if (scaled.length) scope(() => this.followParts(scaled));
  }

  private followParts(parts: readonly Parameter[]): void {
    const { kernels } = this.backend;
    const values = new Float32Array(parts.length);
    const bytes = new Uint8Array(values.buffer);
    const counts = empty(this.backend, [parts.length], 'f32');
    kernels.fill({ y: counts, n: counts.size, value: 0 });
    parts.forEach((p, i) => {
      const rows = this.exchange.measuredRows(p);
      if (rows && p.grad)
        withRows(p, rows, [p.grad], ([x]) => kernels.saturated({ y: counts.slice(i, i + 1), x, n: x.size }));
    });
    this.backend.read(counts.handle, bytes);
    this.exchange.sumOverParts(values);
    this.backend.write(counts.handle, bytes);
    parts.forEach((p, i) => {
      if (!p.mu || !p.autoScale || !this.moments.has(p)) return;
      kernels.mu_follow({ mu: p.mu, count: counts.slice(i, i + 1), total: sizeOf(p.wholeShape), ...p.autoScale });
    });
  }

  /** [clip coefficient, norm, skip, steps taken] as of the last step. */
  readControl(): Float32Array {
    const values = new Float32Array(4);
    this.backend.read(this.control.handle, new Uint8Array(values.buffer));
    return values;
  }

  release(): void {
    for (const { m, v } of this.moments.values()) {
      m.release();
      v.release();
    }
    for (const t of [...this.sumOf, this.sums, this.control]) t.release();
  }
}

/** Runs `fn` on rows of some of a parameter's tensors, each of which is whole or just these rows. */
function withRows(p: Parameter, [begin, end]: Rows, tensors: readonly Tensor[], fn: (rows: Tensor[]) => void): void {
  if (begin === 0 && end === p.shape[0]) return fn([...tensors]);
  scope(() => fn(tensors.map((t) => (t.shape[0] === end - begin ? t : t.slice(begin, end)))));
}
