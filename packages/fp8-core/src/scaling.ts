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

  /** Once a step, after backward: every window takes in this step's amax and chooses the next step's scale. */
  update(): void {
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

  private editSlots(slot: number, value: number): void {
    for (const { windows } of this.blocks) {
      const values = new Float32Array(windows.size);
      const bytes = new Uint8Array(values.buffer);
      this.backend.read(windows.handle, bytes);
      for (let i = slot; i < values.length; i += windowSlot.size) values[i] = value;
      this.backend.write(windows.handle, bytes);
    }
  }

  release(): void {
    for (const w of this.windows.values()) w.release();
    for (const b of this.blocks) b.windows.release();
  }
}
