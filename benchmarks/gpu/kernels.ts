// What is measured on a chip: copy bandwidth, memory-bound kernels as a share of it, matrix products at the layer shapes of
// Llama-8B and GPT-175B. On the simulated device the shapes are small and the times null: only the logic runs.
import type { CudaBackend } from 'cuda-backend';
import { type DType, dtypes, empty, scope, type Tensor } from 'fp8-core';
import { clockOf } from './clock.ts';

export interface Bandwidth {
  kernel: string;
  /** Read and written once each, as the kernel must. */
  bytes: number;
  ms: number | null;
  gigabytesPerSecond: number | null;
  /** Of the measured copy. */
  share: number | null;
}

export interface Product {
  layer: string;
  m: number;
  n: number;
  k: number;
  bf16Tflops: number | null;
  fp8Tflops: number | null;
  ratio: number | null;
}

/** Values that are no zeros: bf16 normals, cast to the dtype. */
function filled(backend: CudaBackend, dtype: DType, n: number): Tensor {
  const normal = empty(backend, [n], 'f32');
  backend.kernels.random_normal({ y: normal, n, std: 1, seed: 1, stream: n, offset: 0 });
  if (dtype === 'f32') return normal;
  const y = empty(backend, [n], dtype);
  if (dtypes[dtype].scaled) backend.kernels.quantize({ y, x: normal, n, random: 0 });
  else backend.kernels.cast({ y, x: normal, n, random: 0 });
  return y;
}

/** A window whose casts are delayed, as after the first 16 steps, at a scale that none of the values here saturates. */
function warmWindow(backend: CudaBackend): Tensor {
  const w = empty(backend, [18], 'f32');
  backend.write(w.handle, new Uint8Array(Float32Array.from({ length: 18 }, (_, i) => [16, 8, 0][i] ?? 4).buffer));
  return w;
}

export function measureBandwidth(backend: CudaBackend): Bandwidth[] {
  const clock = clockOf(backend);
  const k = backend.kernels;
  const rows = backend.simulated ? 8 : 16384;
  const dim = backend.simulated ? 64 : 8192;
  const n = rows * dim;
  const out: Bandwidth[] = [];
  const add = (kernel: string, bytes: number, call: () => void): void => {
    const ms = clock.ms(call);
    const rate = ms === null ? null : bytes / ms / 1e6;
    const copy = out[0]?.gigabytesPerSecond ?? rate;
    out.push({
      kernel,
      bytes,
      ms,
      gigabytesPerSecond: rate,
      share: rate === null || copy === null ? null : rate / copy,
    });
  };
  scope(() => {
    const [a, b] = [filled(backend, 'bf16', n), filled(backend, 'bf16', n)];
    // No kernel reads what it wrote the time before: values would grow from call to call, and NaN takes other ways.
    const out = empty(backend, [n], 'bf16');
    const e4m3 = filled(backend, 'e4m3', n);
    const window = warmWindow(backend);
    const f32 = (size: number) => filled(backend, 'f32', size);
    add('copy, bf16', 4 * n, () => backend.copy(out.handle, a.handle));
    add(
      'cast, bf16 to f16',
      4 * n,
      (() => {
        const y = filled(backend, 'f16', n);
        return () => k.cast({ y, x: a, n, random: 0 });
      })(),
    );
    add('quantize, bf16 to e4m3, delayed', 3 * n, () => k.quantize({ y: e4m3, x: a, window, n, random: 0 }));
    add(
      'amax, bf16',
      2 * n,
      (() => {
        const y = f32(1);
        return () => k.amax({ y, x: a, n });
      })(),
    );
    add('add, bf16', 6 * n, () => k.add({ y: out, a, b, n }));
    add('gelu_forward, bf16 to e4m3', 3 * n, () => k.gelu_forward({ y: e4m3, x: a, window, n }));
    add('gelu_backward, bf16', 6 * n, () => k.gelu_backward({ dx: out, dy: b, x: a, n }));
    add('swiglu_forward, bf16 to e4m3', 5 * (n / 2), () =>
      k.swiglu_forward({ y: e4m3, x: a, window, rows, dim: dim / 2 }),
    );
    const [weight, bias, stats] = [f32(dim), f32(dim), f32(rows * 2)];
    const norm = { rows, dim, eps: 1e-5 };
    add('layer_norm_forward, bf16 to e4m3', 3 * n, () =>
      k.layer_norm_forward({ y: e4m3, stats, x: a, weight, bias, window, ...norm }),
    );
    add('rms_norm_forward, bf16 to e4m3', 3 * n, () =>
      k.rms_norm_forward({ y: e4m3, stats, x: a, weight, window, ...norm }),
    );
    const [dweight, dbias] = [f32(dim), f32(dim)];
    add('layer_norm_backward, bf16', 6 * n, () =>
      k.layer_norm_backward({ dx: out, dweight, dbias, dy: b, x: a, weight, stats, rows, dim }),
    );
    add(
      'sum_squares, e4m3',
      n,
      (() => {
        const y = f32(1);
        return () => k.sum_squares({ y, x: e4m3, n });
      })(),
    );
    // The second moment from zero: normals would be negative, and their roots NaN.
    const states = { w: filled(backend, 'f16', n), m: filled(backend, 'e4m3', n), v: empty(backend, [n], 'f16') };
    k.fill({ y: states.v, n, value: 0 });
    const control = empty(backend, [4], 'f32');
    backend.write(control.handle, new Uint8Array(Float32Array.of(1, 1, 0, 100).buffer));
    const hyper = { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    // Measured and applied: read twice, written once.
    add('adamw, o2', n * (2 * (2 + 1 + 1 + 2) + (2 + 1 + 2)), () =>
      k.adamw({ ...states, grad: e4m3, control, n, phase: 0, ...hyper }),
    );
  });
  backend.trim();
  return out;
}

const layers = [
  { layer: 'square', n: 8192, k: 8192, m: 8192 },
  { layer: 'Llama-8B q|k|v', n: 6144, k: 4096, m: 8192 },
  { layer: 'Llama-8B o', n: 4096, k: 4096, m: 8192 },
  { layer: 'Llama-8B gate|up', n: 28672, k: 4096, m: 8192 },
  { layer: 'Llama-8B down', n: 4096, k: 14336, m: 8192 },
  { layer: 'GPT-175B q|k|v', n: 36864, k: 12288, m: 4096 },
  { layer: 'GPT-175B o', n: 12288, k: 12288, m: 4096 },
  { layer: 'GPT-175B fc', n: 49152, k: 12288, m: 4096 },
  { layer: 'GPT-175B proj', n: 12288, k: 49152, m: 4096 },
];

/** As the PyTorch peer does (torch_gpu.py). */
const settleMs = 1000;

/** y = x w' as in forward: both operands contiguous along k. */
export function measureProducts(backend: CudaBackend): Product[] {
  const clock = clockOf(backend);
  const shrink = (v: number): number => (backend.simulated ? Math.max(16, Math.round(v / 4096) * 16) : v);
  return layers.map(({ layer, ...shape }) => {
    const [m, n, k] = [shape.m, shape.n, shape.k].map(shrink);
    const rate = (dtype: DType): number | null =>
      scope(() => {
        const [a, b, c] = [
          filled(backend, dtype, m * k),
          filled(backend, dtype, n * k),
          empty(backend, [m * n], 'bf16'),
        ];
        const args = { m, n, k, trans_a: 0, trans_b: 1, accumulate: 0, compute_f32: 0, alpha: 1 };
        const ms = clock.ms(() => backend.kernels.gemm({ c, a, b, ...args }), settleMs);
        return ms === null ? null : (2 * m * n * k) / ms / 1e9;
      });
    const [bf16Tflops, fp8Tflops] = [rate('bf16'), rate('e4m3')];
    backend.trim();
    return { layer, m, n, k, bf16Tflops, fp8Tflops, ratio: bf16Tflops && fp8Tflops ? fp8Tflops / bf16Tflops : null };
  });
}
