// Generated from packages/fp8-kernels/kernels.def by tools/generate-kernels.mjs. Do not edit.
import type { DType } from './dtype.ts';
import type { Tensor } from './tensor.ts';

export interface FillArgs {
  /** out f32|bf16|f16|e4m3|e5m2|i32 [n] */
  y: Tensor;
  n: number;
  value: number;
}

export interface CastArgs {
  /** out f32|bf16|f16|e4m3|e5m2 [n] */
  y: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [n] */
  x: Tensor;
  n: number;
  random: number;
}

export interface QuantizeArgs {
  /** out f16|e4m3|e5m2 [n] */
  y: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [n] */
  x: Tensor;
  /** inout f32 [18] */
  window?: Tensor | null;
  /** in f32 [1] */
  mu?: Tensor | null;
  /** in f32 [1] */
  known?: Tensor | null;
  n: number;
  random: number;
}

export interface QuantizeRowsArgs {
  /** out e4m3|e5m2 [rows*dim] */
  y: Tensor;
  /** out e4m3|e5m2 [rows*dim] */
  transposed?: Tensor | null;
  /** inout f32 [dim] */
  sums?: Tensor | null;
  /** in f32|bf16 [rows*dim] */
  x: Tensor;
  /** inout f32 [18] */
  window?: Tensor | null;
  rows: number;
  dim: number;
  random: number;
}

export interface AccumulateFp8Args {
  /** inout e4m3|e5m2 [n] */
  y: Tensor;
  /** in f32|bf16 [n] */
  x: Tensor;
  /** in f32 [1] */
  mu?: Tensor | null;
  n: number;
}

export interface AmaxArgs {
  /** out f32 [1] */
  y: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [n] */
  x: Tensor;
  n: number;
}

export interface WindowUpdateArgs {
  /** inout f32 [count*18] */
  windows: Tensor;
  count: number;
  max: number;
}

export interface MuUpdateArgs {
  /** inout f32 [1] */
  mu: Tensor;
  /** in e4m3|e5m2 [n] */
  x: Tensor;
  n: number;
  threshold: number;
  growth: number;
}

export interface SaturatedArgs {
  /** out f32 [1] */
  y: Tensor;
  /** in e4m3|e5m2 [n] */
  x: Tensor;
  n: number;
}

export interface MuFollowArgs {
  /** inout f32 [1] */
  mu: Tensor;
  /** in f32 [1] */
  count: Tensor;
  total: number;
  threshold: number;
  growth: number;
}

export interface AddArgs {
  /** out f32|bf16 [n] */
  y: Tensor;
  /** in f32|bf16 [n] */
  a: Tensor;
  /** in f32|bf16 [n] */
  b: Tensor;
  n: number;
}

export interface ScaleArgs {
  /** out f32|bf16 [n] */
  y: Tensor;
  /** in f32|bf16 [n] */
  x: Tensor;
  n: number;
  alpha: number;
}

export interface GeluForwardArgs {
  /** out f32|bf16|e4m3|e5m2 [n] */
  y: Tensor;
  /** in f32|bf16 [n] */
  x: Tensor;
  /** inout f32 [18] */
  window?: Tensor | null;
  n: number;
}

export interface GeluBackwardArgs {
  /** out f32|bf16 [n] */
  dx: Tensor;
  /** in f32|bf16 [n] */
  dy: Tensor;
  /** in f32|bf16 [n] */
  x: Tensor;
  n: number;
}

export interface SwigluForwardArgs {
  /** out f32|bf16|e4m3|e5m2 [rows*dim] */
  y: Tensor;
  /** in f32|bf16 [rows*2*dim] */
  x: Tensor;
  /** inout f32 [18] */
  window?: Tensor | null;
  rows: number;
  dim: number;
}

export interface SwigluBackwardArgs {
  /** out f32|bf16 [rows*2*dim] */
  dx: Tensor;
  /** in f32|bf16 [rows*dim] */
  dy: Tensor;
  /** in f32|bf16 [rows*2*dim] */
  x: Tensor;
  rows: number;
  dim: number;
}

export interface DropoutArgs {
  /** out f32|bf16 [n] */
  y: Tensor;
  /** in f32|bf16 [n] */
  x: Tensor;
  /** in f32|bf16 [n] */
  residual?: Tensor | null;
  n: number;
  rate: number;
  seed: number;
  stream: number;
  offset: number;
}

export interface RopeArgs {
  /** out f32|bf16 [rows*(heads+2*kv_heads)*head_dim] */
  y: Tensor;
  /** in f32|bf16 [rows*(heads+2*kv_heads)*head_dim] */
  x: Tensor;
  rows: number;
  batch: number;
  heads: number;
  kv_heads: number;
  head_dim: number;
  position: number;
  theta: number;
  inverse: number;
}

export interface LayerNormForwardArgs {
  /** out f32|bf16|e4m3|e5m2 [rows*dim] */
  y: Tensor;
  /** out f32 [rows*2] */
  stats: Tensor;
  /** in f32|bf16 [rows*dim] */
  x: Tensor;
  /** in f32 [dim] */
  weight: Tensor;
  /** in f32 [dim] */
  bias?: Tensor | null;
  /** inout f32 [18] */
  window?: Tensor | null;
  rows: number;
  dim: number;
  eps: number;
}

export interface LayerNormBackwardArgs {
  /** out f32|bf16 [rows*dim] */
  dx: Tensor;
  /** inout f32 [dim] */
  dweight: Tensor;
  /** inout f32 [dim] */
  dbias?: Tensor | null;
  /** in f32|bf16 [rows*dim] */
  dy: Tensor;
  /** in f32|bf16 [rows*dim] */
  x: Tensor;
  /** in f32 [dim] */
  weight: Tensor;
  /** in f32 [rows*2] */
  stats: Tensor;
  /** in f32|bf16 [rows*dim] */
  residual?: Tensor | null;
  rows: number;
  dim: number;
}

export interface RmsNormForwardArgs {
  /** out f32|bf16|e4m3|e5m2 [rows*dim] */
  y: Tensor;
  /** out f32 [rows] */
  stats: Tensor;
  /** in f32|bf16 [rows*dim] */
  x: Tensor;
  /** in f32 [dim] */
  weight: Tensor;
  /** inout f32 [18] */
  window?: Tensor | null;
  rows: number;
  dim: number;
  eps: number;
}

export interface RmsNormBackwardArgs {
  /** out f32|bf16 [rows*dim] */
  dx: Tensor;
  /** inout f32 [dim] */
  dweight: Tensor;
  /** in f32|bf16 [rows*dim] */
  dy: Tensor;
  /** in f32|bf16 [rows*dim] */
  x: Tensor;
  /** in f32 [dim] */
  weight: Tensor;
  /** in f32 [rows] */
  stats: Tensor;
  /** in f32|bf16 [rows*dim] */
  residual?: Tensor | null;
  rows: number;
  dim: number;
}

export interface GemmArgs {
  /** inout f32|bf16|f16 [m*n] */
  c: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [m*k] */
  a: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [k*n] */
  b: Tensor;
  /** in f32 [n] */
  bias?: Tensor | null;
  /** out f32 [1] */
  amax?: Tensor | null;
  m: number;
  n: number;
  k: number;
  trans_a: number;
  trans_b: number;
  accumulate: number;
  compute_f32: number;
  alpha: number;
}

export interface ColumnSumsArgs {
  /** inout f32 [dim] */
  y: Tensor;
  /** in f32|bf16 [rows*dim] */
  x: Tensor;
  rows: number;
  dim: number;
}

export interface AttentionForwardArgs {
  /** out f32|bf16 [seq*batch*heads*head_dim] */
  y: Tensor;
  /** out f32 [batch*heads*seq] */
  lse: Tensor;
  /** in f32|bf16 [seq*batch*(heads+2*kv_heads)*head_dim] */
  qkv: Tensor;
  seq: number;
  batch: number;
  heads: number;
  kv_heads: number;
  head_dim: number;
  softmax_scale: number;
}

export interface AttentionBackwardArgs {
  /** out f32|bf16 [seq*batch*(heads+2*kv_heads)*head_dim] */
  dqkv: Tensor;
  /** in f32|bf16 [seq*batch*heads*head_dim] */
  dy: Tensor;
  /** in f32|bf16 [seq*batch*heads*head_dim] */
  y: Tensor;
  /** in f32 [batch*heads*seq] */
  lse: Tensor;
  /** in f32|bf16 [seq*batch*(heads+2*kv_heads)*head_dim] */
  qkv: Tensor;
  seq: number;
  batch: number;
  heads: number;
  kv_heads: number;
  head_dim: number;
  softmax_scale: number;
}

export interface AttentionCachedArgs {
  /** out f32|bf16 [seq*batch*heads*head_dim] */
  y: Tensor;
  /** inout f32|bf16 [max_seq*batch*kv_heads*head_dim] */
  keys: Tensor;
  /** inout f32|bf16 [max_seq*batch*kv_heads*head_dim] */
  values: Tensor;
  /** in f32|bf16 [seq*batch*(heads+2*kv_heads)*head_dim] */
  qkv: Tensor;
  seq: number;
  batch: number;
  heads: number;
  kv_heads: number;
  head_dim: number;
  start: number;
  max_seq: number;
  softmax_scale: number;
}

export interface EmbeddingForwardArgs {
  /** out f32|bf16 [rows*dim] */
  y: Tensor;
  /** in i32 [rows] */
  tokens: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [vocab*dim] */
  table: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [max_seq*dim] */
  positions?: Tensor | null;
  rows: number;
  dim: number;
  vocab: number;
  vocab_start: number;
  batch: number;
  position: number;
  max_seq: number;
}

export interface EmbeddingBackwardArgs {
  /** inout f32 [vocab*dim] */
  dtable: Tensor;
  /** inout f32 [max_seq*dim] */
  dpositions?: Tensor | null;
  /** in i32 [rows] */
  tokens: Tensor;
  /** in f32|bf16 [rows*dim] */
  dy: Tensor;
  rows: number;
  dim: number;
  vocab: number;
  vocab_start: number;
  batch: number;
  position: number;
  max_seq: number;
}

export interface SoftmaxCrossEntropyArgs {
  /** inout f32|bf16 [rows*stride] */
  logits: Tensor;
  /** out f32 [rows] */
  loss: Tensor;
  /** in i32 [rows] */
  targets: Tensor;
  rows: number;
  vocab: number;
  stride: number;
  grad_scale: number;
  smoothing: number;
  backward: number;
}

export interface SoftmaxStatsArgs {
  /** out f32 [rows*4] */
  stats: Tensor;
  /** in f32|bf16 [rows*vocab] */
  logits: Tensor;
  /** in i32 [rows] */
  targets: Tensor;
  rows: number;
  vocab: number;
  vocab_start: number;
}

export interface ShardedCrossEntropyArgs {
  /** inout f32|bf16 [rows*vocab] */
  logits: Tensor;
  /** out f32 [rows] */
  loss: Tensor;
  /** in f32 [parts*rows*4] */
  stats: Tensor;
  /** in i32 [rows] */
  targets: Tensor;
  rows: number;
  vocab: number;
  vocab_start: number;
  parts: number;
  total: number;
  grad_scale: number;
  smoothing: number;
  backward: number;
}

export interface SumArgs {
  /** out f32 [1] */
  y: Tensor;
  /** in f32 [n] */
  x: Tensor;
  n: number;
  alpha: number;
}

export interface SumSquaresArgs {
  /** out f32 [1] */
  y: Tensor;
  /** in f32|bf16|f16|e4m3|e5m2 [n] */
  x: Tensor;
  n: number;
}

export interface ClipControlArgs {
  /** inout f32 [4] */
  control: Tensor;
  /** in f32 [count] */
  sums: Tensor;
  count: number;
  max_norm: number;
}

export interface AdamwArgs {
  /** inout f32|bf16|f16|e4m3|e5m2 [n] */
  w: Tensor;
  /** inout f32|bf16|f16|e4m3|e5m2 [n] */
  master?: Tensor | null;
  /** in f32|bf16|f16|e4m3|e5m2 [n] */
  grad: Tensor;
  /** inout f32|bf16|f16|e4m3|e5m2 [n] */
  m: Tensor;
  /** inout f32|bf16|f16|e4m3|e5m2 [n] */
  v: Tensor;
  /** in f32 [4] */
  control: Tensor;
  /** inout f32 [3] */
  amaxes?: Tensor | null;
  n: number;
  phase: number;
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weight_decay: number;
}

export interface RandomNormalArgs {
  /** out f32 [n] */
  y: Tensor;
  n: number;
  std: number;
  seed: number;
  stream: number;
  offset: number;
}

/** The kernel table; every backend implements each entry. Wrong sizes or dtypes throw before the kernel runs. */
export interface Kernels {
  fill(args: FillArgs): void;
  /** to y's present scale, kept; counts saturation, records amax */
  cast(args: CastArgs): void;
  /** scale * mu; the amax is `known`, else the one x's block records, else measured */
  quantize(args: QuantizeArgs): void;
  /** transposed = y as [dim, rows], of y's dtype and with its scale block; sums += column sums of x (bias gradient) */
  quantize_rows(args: QuantizeRowsArgs): void;
  /** y = quantize(y + x), just in time, scale * mu */
  accumulate_fp8(args: AccumulateFp8Args): void;
  /** max |x|; +inf if any NaN */
  amax(args: AmaxArgs): void;
  /** end of step: roll, next scale; max = 448 or 57344 */
  window_update(args: WindowUpdateArgs): void;
  /** share of +-max codes > threshold: mu / 2, else mu * growth */
  mu_update(args: MuUpdateArgs): void;
  /** number of +-max codes */
  saturated(args: SaturatedArgs): void;
  /** mu_update for shards: count, summed over them, of total elements */
  mu_follow(args: MuFollowArgs): void;
  /** y may be a or b */
  add(args: AddArgs): void;
  scale(args: ScaleArgs): void;
  /** tanh approximation */
  gelu_forward(args: GeluForwardArgs): void;
  gelu_backward(args: GeluBackwardArgs): void;
  /** row = gate | up; silu(gate) * up */
  swiglu_forward(args: SwigluForwardArgs): void;
  swiglu_backward(args: SwigluBackwardArgs): void;
  /** y = residual + mask * x / (1 - rate); its own backward */
  dropout(args: DropoutArgs): void;
  /** rotates q and k of q|k|v rows, half-rotation; copies v; y may be x */
  rope(args: RopeArgs): void;
  /** stats row: mean, 1/std */
  layer_norm_forward(args: LayerNormForwardArgs): void;
  /** dx = residual + gradient; residual may be dx */
  layer_norm_backward(args: LayerNormBackwardArgs): void;
  /** stats: 1/rms */
  rms_norm_forward(args: RmsNormForwardArgs): void;
  rms_norm_backward(args: RmsNormBackwardArgs): void;
  /** c (+)= alpha * op(a) op(b) + bias */
  gemm(args: GemmArgs): void;
  column_sums(args: ColumnSumsArgs): void;
  attention_forward(args: AttentionForwardArgs): void;
  attention_backward(args: AttentionBackwardArgs): void;
  /** appends k, v at rows start.., attends over start + seq */
  attention_cached(args: AttentionCachedArgs): void;
  /** token outside [start, start + vocab): zero row */
  embedding_forward(args: EmbeddingForwardArgs): void;
  embedding_backward(args: EmbeddingBackwardArgs): void;
  /** row r begins at r * stride; backward: logits become their gradients * grad_scale, what lies beyond vocab 0; target < 0: row ignored, loss 0 */
  softmax_cross_entropy(args: SoftmaxCrossEntropyArgs): void;
  /** of a slice of the vocabulary; a row: max, sum exp(x - max), logit of the target or 0, sum of logits */
  softmax_stats(args: SoftmaxStatsArgs): void;
  /** softmax_cross_entropy over `total` logits of which these are a slice, from the stats of all slices */
  sharded_cross_entropy(args: ShardedCrossEntropyArgs): void;
  /** y = alpha * sum, float64 inside */
  sum(args: SumArgs): void;
  /** float64 inside */
  sum_squares(args: SumSquaresArgs): void;
  /** control = coefficient, norm, skip, steps taken; non-finite norm: skip = 1 */
  clip_control(args: ClipControlArgs): void;
  /** phase 0: measures and applies; 1: only writes amaxes, of the new p, m, v (p: master or w; 0 for what no scale hangs on); 2: applies with these amaxes, the largest over all shards of the tensor */
  adamw(args: AdamwArgs): void;
  /** element offset + i of stream: counter-based, same bits on every backend */
  random_normal(args: RandomNormalArgs): void;
}

export interface KernelParam {
  name: string;
  kind: 'tensor' | 'int' | 'num';
  access?: 'in' | 'out' | 'inout';
  dtypes?: readonly DType[];
  optional?: boolean;
  /** Number of elements that the kernel touches, from the integer arguments. */
  size?: (a: Record<string, number>) => number;
}

export const kernelTable: Record<keyof Kernels, readonly KernelParam[]> = {
  fill: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2', 'i32'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'value', kind: 'num' },
  ],
  cast: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'random', kind: 'int' },
  ],
  quantize: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'window', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 18 },
    { name: 'mu', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: true, size: () => 1 },
    { name: 'known', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: true, size: () => 1 },
    { name: 'n', kind: 'int' },
    { name: 'random', kind: 'int' },
  ],
  quantize_rows: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['e4m3', 'e5m2'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'transposed', kind: 'tensor', access: 'out', dtypes: ['e4m3', 'e5m2'], optional: true, size: (a) => a.rows*a.dim },
    { name: 'sums', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: (a) => a.dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'window', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 18 },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
    { name: 'random', kind: 'int' },
  ],
  accumulate_fp8: [
    { name: 'y', kind: 'tensor', access: 'inout', dtypes: ['e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'mu', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: true, size: () => 1 },
    { name: 'n', kind: 'int' },
  ],
  amax: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
  ],
  window_update: [
    { name: 'windows', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: (a) => a.count*18 },
    { name: 'count', kind: 'int' },
    { name: 'max', kind: 'num' },
  ],
  mu_update: [
    { name: 'mu', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'threshold', kind: 'num' },
    { name: 'growth', kind: 'num' },
  ],
  saturated: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
  ],
  mu_follow: [
    { name: 'mu', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'count', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'total', kind: 'num' },
    { name: 'threshold', kind: 'num' },
    { name: 'growth', kind: 'num' },
  ],
  add: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'a', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'b', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
  ],
  scale: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'alpha', kind: 'num' },
  ],
  gelu_forward: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'window', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 18 },
    { name: 'n', kind: 'int' },
  ],
  gelu_backward: [
    { name: 'dx', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'dy', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
  ],
  swiglu_forward: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*2*a.dim },
    { name: 'window', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 18 },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
  ],
  swiglu_backward: [
    { name: 'dx', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*2*a.dim },
    { name: 'dy', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*2*a.dim },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
  ],
  dropout: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.n },
    { name: 'residual', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: true, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'rate', kind: 'num' },
    { name: 'seed', kind: 'int' },
    { name: 'stream', kind: 'int' },
    { name: 'offset', kind: 'int' },
  ],
  rope: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*(a.heads+2*a.kv_heads)*a.head_dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*(a.heads+2*a.kv_heads)*a.head_dim },
    { name: 'rows', kind: 'int' },
    { name: 'batch', kind: 'int' },
    { name: 'heads', kind: 'int' },
    { name: 'kv_heads', kind: 'int' },
    { name: 'head_dim', kind: 'int' },
    { name: 'position', kind: 'int' },
    { name: 'theta', kind: 'num' },
    { name: 'inverse', kind: 'int' },
  ],
  layer_norm_forward: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'stats', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.rows*2 },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'weight', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'bias', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: true, size: (a) => a.dim },
    { name: 'window', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 18 },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
    { name: 'eps', kind: 'num' },
  ],
  layer_norm_backward: [
    { name: 'dx', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'dweight', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'dbias', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: (a) => a.dim },
    { name: 'dy', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'weight', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'stats', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.rows*2 },
    { name: 'residual', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: true, size: (a) => a.rows*a.dim },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
  ],
  rms_norm_forward: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'stats', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.rows },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'weight', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'window', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 18 },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
    { name: 'eps', kind: 'num' },
  ],
  rms_norm_backward: [
    { name: 'dx', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'dweight', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'dy', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'weight', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'stats', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.rows },
    { name: 'residual', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: true, size: (a) => a.rows*a.dim },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
  ],
  gemm: [
    { name: 'c', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16', 'f16'], optional: false, size: (a) => a.m*a.n },
    { name: 'a', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.m*a.k },
    { name: 'b', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.k*a.n },
    { name: 'bias', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: true, size: (a) => a.n },
    { name: 'amax', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: true, size: () => 1 },
    { name: 'm', kind: 'int' },
    { name: 'n', kind: 'int' },
    { name: 'k', kind: 'int' },
    { name: 'trans_a', kind: 'int' },
    { name: 'trans_b', kind: 'int' },
    { name: 'accumulate', kind: 'int' },
    { name: 'compute_f32', kind: 'int' },
    { name: 'alpha', kind: 'num' },
  ],
  column_sums: [
    { name: 'y', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: (a) => a.dim },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
  ],
  attention_forward: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*a.heads*a.head_dim },
    { name: 'lse', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.batch*a.heads*a.seq },
    { name: 'qkv', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*(a.heads+2*a.kv_heads)*a.head_dim },
    { name: 'seq', kind: 'int' },
    { name: 'batch', kind: 'int' },
    { name: 'heads', kind: 'int' },
    { name: 'kv_heads', kind: 'int' },
    { name: 'head_dim', kind: 'int' },
    { name: 'softmax_scale', kind: 'num' },
  ],
  attention_backward: [
    { name: 'dqkv', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*(a.heads+2*a.kv_heads)*a.head_dim },
    { name: 'dy', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*a.heads*a.head_dim },
    { name: 'y', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*a.heads*a.head_dim },
    { name: 'lse', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.batch*a.heads*a.seq },
    { name: 'qkv', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*(a.heads+2*a.kv_heads)*a.head_dim },
    { name: 'seq', kind: 'int' },
    { name: 'batch', kind: 'int' },
    { name: 'heads', kind: 'int' },
    { name: 'kv_heads', kind: 'int' },
    { name: 'head_dim', kind: 'int' },
    { name: 'softmax_scale', kind: 'num' },
  ],
  attention_cached: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*a.heads*a.head_dim },
    { name: 'keys', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.max_seq*a.batch*a.kv_heads*a.head_dim },
    { name: 'values', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.max_seq*a.batch*a.kv_heads*a.head_dim },
    { name: 'qkv', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.seq*a.batch*(a.heads+2*a.kv_heads)*a.head_dim },
    { name: 'seq', kind: 'int' },
    { name: 'batch', kind: 'int' },
    { name: 'heads', kind: 'int' },
    { name: 'kv_heads', kind: 'int' },
    { name: 'head_dim', kind: 'int' },
    { name: 'start', kind: 'int' },
    { name: 'max_seq', kind: 'int' },
    { name: 'softmax_scale', kind: 'num' },
  ],
  embedding_forward: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'tokens', kind: 'tensor', access: 'in', dtypes: ['i32'], optional: false, size: (a) => a.rows },
    { name: 'table', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.vocab*a.dim },
    { name: 'positions', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: true, size: (a) => a.max_seq*a.dim },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
    { name: 'vocab', kind: 'int' },
    { name: 'vocab_start', kind: 'int' },
    { name: 'batch', kind: 'int' },
    { name: 'position', kind: 'int' },
    { name: 'max_seq', kind: 'int' },
  ],
  embedding_backward: [
    { name: 'dtable', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: (a) => a.vocab*a.dim },
    { name: 'dpositions', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: (a) => a.max_seq*a.dim },
    { name: 'tokens', kind: 'tensor', access: 'in', dtypes: ['i32'], optional: false, size: (a) => a.rows },
    { name: 'dy', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.dim },
    { name: 'rows', kind: 'int' },
    { name: 'dim', kind: 'int' },
    { name: 'vocab', kind: 'int' },
    { name: 'vocab_start', kind: 'int' },
    { name: 'batch', kind: 'int' },
    { name: 'position', kind: 'int' },
    { name: 'max_seq', kind: 'int' },
  ],
  softmax_cross_entropy: [
    { name: 'logits', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.stride },
    { name: 'loss', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.rows },
    { name: 'targets', kind: 'tensor', access: 'in', dtypes: ['i32'], optional: false, size: (a) => a.rows },
    { name: 'rows', kind: 'int' },
    { name: 'vocab', kind: 'int' },
    { name: 'stride', kind: 'int' },
    { name: 'grad_scale', kind: 'num' },
    { name: 'smoothing', kind: 'num' },
    { name: 'backward', kind: 'int' },
  ],
  softmax_stats: [
    { name: 'stats', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.rows*4 },
    { name: 'logits', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.vocab },
    { name: 'targets', kind: 'tensor', access: 'in', dtypes: ['i32'], optional: false, size: (a) => a.rows },
    { name: 'rows', kind: 'int' },
    { name: 'vocab', kind: 'int' },
    { name: 'vocab_start', kind: 'int' },
  ],
  sharded_cross_entropy: [
    { name: 'logits', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16'], optional: false, size: (a) => a.rows*a.vocab },
    { name: 'loss', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.rows },
    { name: 'stats', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.parts*a.rows*4 },
    { name: 'targets', kind: 'tensor', access: 'in', dtypes: ['i32'], optional: false, size: (a) => a.rows },
    { name: 'rows', kind: 'int' },
    { name: 'vocab', kind: 'int' },
    { name: 'vocab_start', kind: 'int' },
    { name: 'parts', kind: 'int' },
    { name: 'total', kind: 'int' },
    { name: 'grad_scale', kind: 'num' },
    { name: 'smoothing', kind: 'num' },
    { name: 'backward', kind: 'int' },
  ],
  sum: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'alpha', kind: 'num' },
  ],
  sum_squares: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: () => 1 },
    { name: 'x', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
  ],
  clip_control: [
    { name: 'control', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: false, size: () => 4 },
    { name: 'sums', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: (a) => a.count },
    { name: 'count', kind: 'int' },
    { name: 'max_norm', kind: 'num' },
  ],
  adamw: [
    { name: 'w', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'master', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: true, size: (a) => a.n },
    { name: 'grad', kind: 'tensor', access: 'in', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'm', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'v', kind: 'tensor', access: 'inout', dtypes: ['f32', 'bf16', 'f16', 'e4m3', 'e5m2'], optional: false, size: (a) => a.n },
    { name: 'control', kind: 'tensor', access: 'in', dtypes: ['f32'], optional: false, size: () => 4 },
    { name: 'amaxes', kind: 'tensor', access: 'inout', dtypes: ['f32'], optional: true, size: () => 3 },
    { name: 'n', kind: 'int' },
    { name: 'phase', kind: 'int' },
    { name: 'lr', kind: 'num' },
    { name: 'beta1', kind: 'num' },
    { name: 'beta2', kind: 'num' },
    { name: 'eps', kind: 'num' },
    { name: 'weight_decay', kind: 'num' },
  ],
  random_normal: [
    { name: 'y', kind: 'tensor', access: 'out', dtypes: ['f32'], optional: false, size: (a) => a.n },
    { name: 'n', kind: 'int' },
    { name: 'std', kind: 'num' },
    { name: 'seed', kind: 'int' },
    { name: 'stream', kind: 'int' },
    { name: 'offset', kind: 'int' },
  ],
};

/** Calls of the native addon: per kernel, tensors as handles (-1 for none) and scalars, in the table's order. */
export type NativeKernels = Record<keyof Kernels, (...args: number[]) => void>;

/** The handle of a tensor that a kernel cannot do without. */
function handle(tensor: Tensor | undefined, what: string): number {
  if (typeof tensor?.handle !== 'number') throw new TypeError(`${what} is missing; expected a tensor`);
  return tensor.handle;
}

/** The handle of an optional tensor, or -1. */
const maybe = (tensor: Tensor | null | undefined): number => (tensor ? tensor.handle : -1);

export function bindKernels(native: NativeKernels): Kernels {
  return {
    fill: (a) => native.fill(handle(a.y, 'fill: y'), a.n, a.value),
    cast: (a) => native.cast(handle(a.y, 'cast: y'), handle(a.x, 'cast: x'), a.n, a.random),
    quantize: (a) => native.quantize(handle(a.y, 'quantize: y'), handle(a.x, 'quantize: x'), maybe(a.window), maybe(a.mu), maybe(a.known), a.n, a.random),
    quantize_rows: (a) => native.quantize_rows(handle(a.y, 'quantize_rows: y'), maybe(a.transposed), maybe(a.sums), handle(a.x, 'quantize_rows: x'), maybe(a.window), a.rows, a.dim, a.random),
    accumulate_fp8: (a) => native.accumulate_fp8(handle(a.y, 'accumulate_fp8: y'), handle(a.x, 'accumulate_fp8: x'), maybe(a.mu), a.n),
    amax: (a) => native.amax(handle(a.y, 'amax: y'), handle(a.x, 'amax: x'), a.n),
    window_update: (a) => native.window_update(handle(a.windows, 'window_update: windows'), a.count, a.max),
    mu_update: (a) => native.mu_update(handle(a.mu, 'mu_update: mu'), handle(a.x, 'mu_update: x'), a.n, a.threshold, a.growth),
    saturated: (a) => native.saturated(handle(a.y, 'saturated: y'), handle(a.x, 'saturated: x'), a.n),
    mu_follow: (a) => native.mu_follow(handle(a.mu, 'mu_follow: mu'), handle(a.count, 'mu_follow: count'), a.total, a.threshold, a.growth),
    add: (a) => native.add(handle(a.y, 'add: y'), handle(a.a, 'add: a'), handle(a.b, 'add: b'), a.n),
    scale: (a) => native.scale(handle(a.y, 'scale: y'), handle(a.x, 'scale: x'), a.n, a.alpha),
    gelu_forward: (a) => native.gelu_forward(handle(a.y, 'gelu_forward: y'), handle(a.x, 'gelu_forward: x'), maybe(a.window), a.n),
    gelu_backward: (a) => native.gelu_backward(handle(a.dx, 'gelu_backward: dx'), handle(a.dy, 'gelu_backward: dy'), handle(a.x, 'gelu_backward: x'), a.n),
    swiglu_forward: (a) => native.swiglu_forward(handle(a.y, 'swiglu_forward: y'), handle(a.x, 'swiglu_forward: x'), maybe(a.window), a.rows, a.dim),
    swiglu_backward: (a) => native.swiglu_backward(handle(a.dx, 'swiglu_backward: dx'), handle(a.dy, 'swiglu_backward: dy'), handle(a.x, 'swiglu_backward: x'), a.rows, a.dim),
    dropout: (a) => native.dropout(handle(a.y, 'dropout: y'), handle(a.x, 'dropout: x'), maybe(a.residual), a.n, a.rate, a.seed, a.stream, a.offset),
    rope: (a) => native.rope(handle(a.y, 'rope: y'), handle(a.x, 'rope: x'), a.rows, a.batch, a.heads, a.kv_heads, a.head_dim, a.position, a.theta, a.inverse),
    layer_norm_forward: (a) => native.layer_norm_forward(handle(a.y, 'layer_norm_forward: y'), handle(a.stats, 'layer_norm_forward: stats'), handle(a.x, 'layer_norm_forward: x'), handle(a.weight, 'layer_norm_forward: weight'), maybe(a.bias), maybe(a.window), a.rows, a.dim, a.eps),
    layer_norm_backward: (a) => native.layer_norm_backward(handle(a.dx, 'layer_norm_backward: dx'), handle(a.dweight, 'layer_norm_backward: dweight'), maybe(a.dbias), handle(a.dy, 'layer_norm_backward: dy'), handle(a.x, 'layer_norm_backward: x'), handle(a.weight, 'layer_norm_backward: weight'), handle(a.stats, 'layer_norm_backward: stats'), maybe(a.residual), a.rows, a.dim),
    rms_norm_forward: (a) => native.rms_norm_forward(handle(a.y, 'rms_norm_forward: y'), handle(a.stats, 'rms_norm_forward: stats'), handle(a.x, 'rms_norm_forward: x'), handle(a.weight, 'rms_norm_forward: weight'), maybe(a.window), a.rows, a.dim, a.eps),
    rms_norm_backward: (a) => native.rms_norm_backward(handle(a.dx, 'rms_norm_backward: dx'), handle(a.dweight, 'rms_norm_backward: dweight'), handle(a.dy, 'rms_norm_backward: dy'), handle(a.x, 'rms_norm_backward: x'), handle(a.weight, 'rms_norm_backward: weight'), handle(a.stats, 'rms_norm_backward: stats'), maybe(a.residual), a.rows, a.dim),
    gemm: (a) => native.gemm(handle(a.c, 'gemm: c'), handle(a.a, 'gemm: a'), handle(a.b, 'gemm: b'), maybe(a.bias), maybe(a.amax), a.m, a.n, a.k, a.trans_a, a.trans_b, a.accumulate, a.compute_f32, a.alpha),
    column_sums: (a) => native.column_sums(handle(a.y, 'column_sums: y'), handle(a.x, 'column_sums: x'), a.rows, a.dim),
    attention_forward: (a) => native.attention_forward(handle(a.y, 'attention_forward: y'), handle(a.lse, 'attention_forward: lse'), handle(a.qkv, 'attention_forward: qkv'), a.seq, a.batch, a.heads, a.kv_heads, a.head_dim, a.softmax_scale),
    attention_backward: (a) => native.attention_backward(handle(a.dqkv, 'attention_backward: dqkv'), handle(a.dy, 'attention_backward: dy'), handle(a.y, 'attention_backward: y'), handle(a.lse, 'attention_backward: lse'), handle(a.qkv, 'attention_backward: qkv'), a.seq, a.batch, a.heads, a.kv_heads, a.head_dim, a.softmax_scale),
    attention_cached: (a) => native.attention_cached(handle(a.y, 'attention_cached: y'), handle(a.keys, 'attention_cached: keys'), handle(a.values, 'attention_cached: values'), handle(a.qkv, 'attention_cached: qkv'), a.seq, a.batch, a.heads, a.kv_heads, a.head_dim, a.start, a.max_seq, a.softmax_scale),
    embedding_forward: (a) => native.embedding_forward(handle(a.y, 'embedding_forward: y'), handle(a.tokens, 'embedding_forward: tokens'), handle(a.table, 'embedding_forward: table'), maybe(a.positions), a.rows, a.dim, a.vocab, a.vocab_start, a.batch, a.position, a.max_seq),
    embedding_backward: (a) => native.embedding_backward(handle(a.dtable, 'embedding_backward: dtable'), maybe(a.dpositions), handle(a.tokens, 'embedding_backward: tokens'), handle(a.dy, 'embedding_backward: dy'), a.rows, a.dim, a.vocab, a.vocab_start, a.batch, a.position, a.max_seq),
    softmax_cross_entropy: (a) => native.softmax_cross_entropy(handle(a.logits, 'softmax_cross_entropy: logits'), handle(a.loss, 'softmax_cross_entropy: loss'), handle(a.targets, 'softmax_cross_entropy: targets'), a.rows, a.vocab, a.stride, a.grad_scale, a.smoothing, a.backward),
    softmax_stats: (a) => native.softmax_stats(handle(a.stats, 'softmax_stats: stats'), handle(a.logits, 'softmax_stats: logits'), handle(a.targets, 'softmax_stats: targets'), a.rows, a.vocab, a.vocab_start),
    sharded_cross_entropy: (a) => native.sharded_cross_entropy(handle(a.logits, 'sharded_cross_entropy: logits'), handle(a.loss, 'sharded_cross_entropy: loss'), handle(a.stats, 'sharded_cross_entropy: stats'), handle(a.targets, 'sharded_cross_entropy: targets'), a.rows, a.vocab, a.vocab_start, a.parts, a.total, a.grad_scale, a.smoothing, a.backward),
    sum: (a) => native.sum(handle(a.y, 'sum: y'), handle(a.x, 'sum: x'), a.n, a.alpha),
    sum_squares: (a) => native.sum_squares(handle(a.y, 'sum_squares: y'), handle(a.x, 'sum_squares: x'), a.n),
    clip_control: (a) => native.clip_control(handle(a.control, 'clip_control: control'), handle(a.sums, 'clip_control: sums'), a.count, a.max_norm),
    adamw: (a) => native.adamw(handle(a.w, 'adamw: w'), maybe(a.master), handle(a.grad, 'adamw: grad'), handle(a.m, 'adamw: m'), handle(a.v, 'adamw: v'), handle(a.control, 'adamw: control'), maybe(a.amaxes), a.n, a.phase, a.lr, a.beta1, a.beta2, a.eps, a.weight_decay),
    random_normal: (a) => native.random_normal(handle(a.y, 'random_normal: y'), a.n, a.std, a.seed, a.stream, a.offset),
  };
}
