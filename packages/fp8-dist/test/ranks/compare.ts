// Tools for rank programs that hold parallel layers against the same layers on one rank.
import {
  type Backend,
  dtypes,
  empty,
  mergeShard,
  normalAt,
  type Parameter,
  referenceBackend,
  sliceShard,
  type Tensor,
} from 'fp8-core';

/** @param name `ref` or `cpu` */
export async function backendOf(name: string): Promise<Backend> {
  if (name === 'ref') return referenceBackend();
  const backend = 'cpu-backend';
  return ((await import(backend)) as { cpuBackend(): Backend }).cpuBackend();
}

export function readFloats(t: Tensor): Float32Array {
  const values = new Float32Array(t.size);
  if (t.dtype === 'f32') t.backend.read(t.handle, new Uint8Array(values.buffer));
  else {
    const exact = empty(t.backend, [t.size], 'f32');
    t.backend.kernels.cast({ y: exact, x: t, n: t.size, random: 0 });
    t.backend.read(exact.handle, new Uint8Array(values.buffer));
    exact.release();
  }
  return values;
}

/** Standard normal values, the same for a seed on every rank and in every layout. */
export function normals(
  backend: Backend,
  shape: readonly number[],
  seed: number,
  dtype: 'f32' | 'bf16' = 'f32',
): Tensor {
  const exact = empty(backend, shape, 'f32');
  const values = Float32Array.from({ length: exact.size }, (_, i) => normalAt(seed, 1, i));
  backend.write(exact.handle, new Uint8Array(values.buffer));
  if (dtype === 'f32') return exact;
  const t = empty(backend, shape, dtype);
  backend.kernels.cast({ y: t, x: exact, n: t.size, random: 0 });
  return t;
}

export function integers(backend: Backend, shape: readonly number[], values: readonly number[]): Tensor {
  const t = empty(backend, shape, 'i32');
  backend.write(t.handle, new Uint8Array(Int32Array.from(values).buffer));
  return t;
}

/** The part of `whole` floats that a sharded parameter holds. */
export function partOf(p: Parameter, whole: Float32Array): Float32Array {
  if (!p.shard) return whole;
  return new Float32Array(sliceShard(p.shard, new Uint8Array(whole.buffer), 4).buffer);
}

export class Comparison {
  readonly failures: string[] = [];
  count = 0;
  worst = 0;
  private readonly tolerance: number;

  /** @param tolerance largest difference over largest expected magnitude */
  constructor(tolerance: number) {
    this.tolerance = tolerance;
  }

  close(what: string, got: Float32Array, want: Float32Array): void {
    this.count++;
    if (got.length !== want.length) {
      this.failures.push(`${what}: ${got.length} elements, expected ${want.length}`);
      return;
    }
    let at = 0;
    let difference = 0;
    let largest = 0;
    want.forEach((w, i) => {
      const d = Math.abs(got[i] - w);
      largest = Math.max(largest, Math.abs(w));
      if (!(d <= difference)) {
        difference = d;
        at = i;
      }
    });
    const relative = difference / (largest || 1);
    this.worst = Math.max(this.worst, relative);
    if (!(relative <= this.tolerance))
      this.failures.push(`${what}: element ${at} is ${got[at]}, expected ${want[at]} (${relative} of the largest)`);
  }

  true(what: string, ok: boolean): void {
    this.count++;
    if (!ok) this.failures.push(what);
  }
}

export { dtypes, mergeShard };
