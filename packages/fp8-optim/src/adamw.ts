// AdamW over states of any dtype. The arithmetic is one fused kernel a parameter (kernels.def: `adamw`): moments and weight
// are read in their stored dtypes, updated in float32 with the un-quantised new moments, and stored with new just-in-time
// scales. Bytes a linear parameter: 16 in fp32, 18 in bf16 (with its BF16 copy), 6 in FP8-LM's O2.
import { type Backend, empty, inCategory, type Parameter, persist, type Tensor } from 'fp8-core';
import { alone, type OptimizerExchange } from './exchange.ts';

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

/** First and second moment of one parameter. */
export interface Moments {
  m: Tensor;
  v: Tensor;
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
      if (!exchange.owns(p)) continue;
      const state = { m: make(p.shape, p.format.m), v: make(p.shape, p.format.v) };
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
    const { kernels } = this.backend;
    const { betas, eps, weightDecay, maxGradNorm } = this.options;
    kernels.fill({ y: this.sums, n: this.sums.size, value: 0 });
    this.parameters.forEach((p, i) => {
      if (p.grad && this.exchange.measures(p)) kernels.sum_squares({ y: this.sumOf[i], x: p.grad, n: p.size });
    });
    this.exchange.sum(this.sums);
    kernels.clip_control({
      control: this.control,
      sums: this.sums,
      count: this.parameters.length,
      max_norm: maxGradNorm,
    });
    for (const [p, { m, v }] of this.moments) {
      const { grad } = p;
      if (!grad) continue;
      kernels.adamw({
        w: p.data,
        master: p.master,
        grad,
        m,
        v,
        control: this.control,
        n: p.size,
        phase: 0,
        lr,
        beta1: betas[0],
        beta2: betas[1],
        eps,
        weight_decay: p.decay ? weightDecay : 0,
      });
    }
    const [, gradNorm, skip] = this.readControl();
    if (!skip) {
      this.updateAutoScale();
      this.exchange.publish();
    }
    return { gradNorm, skipped: skip !== 0 };
  }

  /** Lets mu of each FP8 gradient follow its saturation (FP8-LM, section 2.1). */
  private updateAutoScale(): void {
    for (const { mu, grad, autoScale, size } of this.moments.keys()) {
      if (mu && grad && autoScale) this.backend.kernels.mu_update({ mu, x: grad, n: size, ...autoScale });
    }
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
