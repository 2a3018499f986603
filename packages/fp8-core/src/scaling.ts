// Delayed scaling. A window keeps the amaxes of the last 16 steps of one site; its scale is what casts at that site use
// during a step, so that a cast needs no extra pass. While a window warms up (its first 16 steps, or after a non-finite
// amax) casts are just in time. The arithmetic is in the kernels `quantize` and `window_update`; here is the bookkeeping.
import type { Backend } from './backend.ts';
import { dtypes, type Fp8DType, windowSlot } from './dtype.ts';
import { inCategory } from './memory.ts';
import type { Cast } from './recipe.ts';
import { isTraining } from './tape.ts';
import { empty, persist, type Tensor } from './tensor.ts';

/** A place in the model where tensors are cast to FP8: the dtype, and its window when scaling is delayed. */
export interface CastSite {
  readonly dtype: Fp8DType;
  readonly window: Tensor | null;
}

/** The window to pass to a kernel: none outside of training, so that an evaluation leaves no trace and needs no history. */
export const activeWindow = (site: CastSite | null): Tensor | null => (isTraining() ? (site?.window ?? null) : null);

const blockCapacity = 128;

interface Block {
  dtype: Fp8DType;
  windows: Tensor;
  used: number;
}

/** All windows of a model, in blocks by dtype so that one kernel call updates many. */
export class ScalingState {
  /** Window by site name; what a checkpoint stores. */
  readonly windows = new Map<string, Tensor>();
  private readonly backend: Backend;
  private readonly blocks: Block[] = [];

  constructor(backend: Backend) {
    this.backend = backend;
  }

  /** Makes the site `name`, e.g. "h.0.attn.qkv.x". @throws Error if that name is taken */
  site(name: string, cast: Cast): CastSite {
    if (cast.scaling === 'current') return { dtype: cast.dtype, window: null };
    if (this.windows.has(name)) throw new Error(`internal: two cast sites are called ${name}`);
    let block = this.blocks.find((b) => b.dtype === cast.dtype && b.used < blockCapacity);
    if (!block) {
      const windows = persist(() =>
        inCategory('weights', () => empty(this.backend, [blockCapacity * windowSlot.size], 'f32')),
      );
      this.backend.kernels.fill({ y: windows, n: windows.size, value: 0 });
      block = { dtype: cast.dtype, windows, used: 0 };
      this.blocks.push(block);
    }
    const { windows, used } = block;
    block.used++;
    const window = persist(() => windows.slice(used * windowSlot.size, (used + 1) * windowSlot.size));
    this.windows.set(name, window);
    return { dtype: cast.dtype, window };
  }

  /**
   * Once a step, after backward: every window takes in this step's amax and chooses the next step's scale.
   * @param reduceMax makes each amax its maximum over the ranks that hold the same sites (tensor x data parallel), in one
   *   exchange: then all of them cast with the same scales
   */
  update(reduceMax?: (amaxes: Float32Array) => void): void {
    if (reduceMax && this.windows.size > 0) this.shareAmaxes(reduceMax);
    for (const { dtype, windows, used } of this.blocks) {
      this.backend.kernels.window_update({ windows, count: used, max: dtypes[dtype].max });
    }
  }

  /**
   * For measurements alone: ends the warm-up now, so that a step costs what it costs after the first 16.
   * Call it after at least one step, when every window has a scale.
   */
  endWarmup(): void {
    this.editSlots(windowSlot.count, windowSlot.length);
  }

  /** Instead of `update` after a skipped step: forgets this step's amaxes; scales and histories stay. */
  discard(): void {
    this.editSlots(windowSlot.amax, 0);
  }

  private shareAmaxes(reduceMax: (amaxes: Float32Array) => void): void {
    const all = this.blocks.map(({ windows }) => this.read(windows));
    const amaxes = new Float32Array(this.windows.size);
    const visit = (body: (values: Float32Array, at: number, i: number) => void): void => {
      let n = 0;
      this.blocks.forEach(({ used }, b) => {
        for (let w = 0; w < used; w++) body(all[b], w * windowSlot.size + windowSlot.amax, n++);
      });
    };
    visit((values, at, i) => {
      amaxes[i] = Number.isNaN(values[at]) ? Number.POSITIVE_INFINITY : values[at];
    });
    reduceMax(amaxes);
    visit((values, at, i) => {
      values[at] = amaxes[i];
    });
    this.blocks.forEach(({ windows }, b) => {
      this.backend.write(windows.handle, new Uint8Array(all[b].buffer));
    });
  }

  private read(windows: Tensor): Float32Array {
    const values = new Float32Array(windows.size);
    this.backend.read(windows.handle, new Uint8Array(values.buffer));
    return values;
  }

  private editSlots(slot: number, value: number): void {
    for (const { windows } of this.blocks) {
      const values = this.read(windows);
      for (let i = slot; i < values.length; i += windowSlot.size) values[i] = value;
      this.backend.write(windows.handle, new Uint8Array(values.buffer));
    }
  }

  release(): void {
    for (const w of this.windows.values()) w.release();
    for (const b of this.blocks) b.windows.release();
  }
}
