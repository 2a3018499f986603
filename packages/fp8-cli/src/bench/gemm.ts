// The product and the peak take turns within one run: the machine's speed changes from second to second, their ratio hardly.
// Both count by their best turn.
import { cpuBackend } from 'cpu-backend';
import { type Backend, empty, encodeBf16, encodeFp8, persist, type Tensor } from 'fp8-core';
import type { BenchGemmOptions } from '../commands/bench.ts';
import { facts, print, printJson } from '../output.ts';

export interface GemmResult {
  gflops: number;
  peakGflops: number;
  fractionOfPeak: number;
  /** Of the best call. */
  ms: number;
  calls: number;
  m: number;
  n: number;
  k: number;
  in: string;
  trans: string;
  isa: string;
  threads: number;
}

/** `fp8lm bench gemm`. */
export function benchGemm(options: BenchGemmOptions): void {
  const result = measureGemm(options);
  if (options.json) return printJson(result);
  const { gflops, peakGflops, fractionOfPeak, ms, m, n, k, isa, threads } = result;
  print(`gemm ${m} x ${n} x ${k}, ${result.in} inputs, ${result.trans}; ${isa}, ${threads} threads`);
  print(
    facts([
      ['product', `${gflops.toFixed(1)} GFLOP/s (${ms.toFixed(3)} ms)`],
      ['peak', `${peakGflops.toFixed(1)} GFLOP/s`],
      ['fraction', fractionOfPeak.toFixed(3)],
    ]),
  );
}

/** Measures for about `seconds`. @throws UserError without the native backend */
export function measureGemm({ m, n, k, in: dtype, trans, seconds }: BenchGemmOptions): GemmResult {
  const backend = cpuBackend();
  const arithmetic = dtype === 'f32' ? 'f32' : 'bf16';
  const [a, b] = [m * k, k * n].map((size) => filled(backend, size, dtype));
  const c = persist(() => empty(backend, [m, n], arithmetic));
  const flops = 2 * m * n * k;
  const product = (): number => {
    const start = performance.now();
    backend.kernels.gemm({
      c,
      a,
      b,
      m,
      n,
      k,
      trans_a: trans === 'tn' ? 1 : 0,
      trans_b: trans === 'nt' ? 1 : 0,
      accumulate: 0,
      compute_f32: dtype === 'f32' ? 1 : 0,
      alpha: 1,
    });
    return performance.now() - start;
  };
  try {
    product(); // allocates packing buffers, wakes the threads
    const end = performance.now() + seconds * 1000;
    let peakGflops = 0;
    let ms = Infinity;
    let calls = 0;
    for (let round = 0; round < 3 || performance.now() < end; round++) {
      peakGflops = Math.max(peakGflops, backend.peakGflops(arithmetic, 0.06));
      const turnEnd = performance.now() + 60;
      do {
        ms = Math.min(ms, product());
        calls++;
      } while (performance.now() < turnEnd);
    }
    const gflops = flops / ms / 1e6;
    const { isa, threads } = backend;
    return {
      gflops,
      peakGflops,
      fractionOfPeak: gflops / peakGflops,
      ms,
      calls,
      m,
      n,
      k,
      in: dtype,
      trans,
      isa,
      threads,
    };
  } finally {
    for (const t of [a, b, c]) t.release();
    backend.trim();
  }
}

/** A tensor of ordinary values: a block of pseudo-random numbers in (-1, 1), repeated. */
function filled(backend: Backend, size: number, dtype: 'e4m3' | 'bf16' | 'f32'): Tensor {
  const values = Float32Array.from({ length: Math.min(size, 65_521) }, (_, i) => Math.sin(i * 12.9898) * 0.999);
  const codes = dtype === 'e4m3' ? encodeFp8(values, 'e4m3') : dtype === 'bf16' ? encodeBf16(values) : values;
  const block = new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
  const t = persist(() => empty(backend, [size], dtype));
  const bytes = new Uint8Array(t.numBytes);
  for (let at = 0; at < bytes.length; at += block.length) {
    bytes.set(block.subarray(0, Math.min(block.length, bytes.length - at)), at);
  }
  backend.write(t.handle, bytes);
  return t;
}
