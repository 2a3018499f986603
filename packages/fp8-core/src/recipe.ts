// A recipe is a plain, complete, printable value: which dtype at which site, and how each cast is scaled.
import type { ActDType, FloatDType, Fp8DType } from './dtype.ts';

/** One cast to FP8 in front of a matrix product. */
export interface Cast {
  dtype: Fp8DType;
  /** `delayed`: scale from the amaxes of the last 16 steps; `current`: just in time, from the tensor itself. */
  scaling: 'delayed' | 'current';
}

/** The three casts of an FP8 linear layer: input, weight, gradient of the output. */
export interface Fp8Gemm {
  x: Cast;
  w: Cast;
  dy: Cast;
}

/** How a parameter and everything that training keeps of it is stored. */
export interface ParamFormat {
  weight: FloatDType;
  /** Null where the weight itself is what the optimizer updates. */
  master: FloatDType | null;
  grad: 'f32' | 'e4m3';
  /** What data-parallel ranks send each other of the gradient; sums are FP32 whatever it is. */
  gradPayload: 'f32' | 'bf16' | 'e4m3';
  m: FloatDType;
  v: FloatDType;
}

/** The factor mu on the scale of each FP8 gradient (FP8-LM, equation 3). */
export interface AutoScale {
  /** Share of saturated elements above which mu is halved. */
  threshold: number;
  /** What mu is multiplied by on any other step. */
  growth: number;
}

/** `act`: in the activations' dtype; `fp8`: one byte an element, summed in float32 where ranks' parts are added. */
export type Payload = 'act' | 'fp8';

/** What the ranks of tensor and sequence parallelism send to each other. */
export interface ParallelPayloads {
  /** Gathers of layer inputs under sequence parallelism, in forward and again in backward (FP8-LM, section 2.3). */
  input: Payload;
  /** Whether backward gathers them again, or forward keeps the gathered ones: less traffic, more memory. */
  regather: boolean;
  /** Gathers, in backward, of the gradient of a row-parallel layer's output. Beyond the paper, as all that follow. */
  outputGrad: Payload;
  /** Sums, in forward, of a row-parallel layer's outputs. */
  output: Payload;
  /** Sums, in backward, of the gradient of a column-parallel layer's input. */
  inputGrad: Payload;
}

export interface Recipe {
  name: string;
  summary: string;
  /** Activations between ops. */
  act: ActDType;
  /** Arithmetic of the linear layers; the head and attention use `act`. */
  gemm: 'f32' | 'bf16' | Fp8Gemm;
  /** Weights of linear layers. */
  linear: ParamFormat;
  /** Embeddings and the output head. */
  embedding: ParamFormat;
  /** Norms and biases. */
  vector: ParamFormat;
  autoScale: AutoScale | null;
  parallel: ParallelPayloads;
}

/** Bytes that training keeps of one parameter: weight, master, gradient, both moments. */
export function bytesPerParameter(format: ParamFormat): number {
  const bytes = { f32: 4, bf16: 2, f16: 2, e4m3: 1, e5m2: 1 };
  const kept = [format.weight, format.grad, format.m, format.v, ...(format.master ? [format.master] : [])];
  return kept.reduce((sum, dtype) => sum + bytes[dtype], 0);
}
