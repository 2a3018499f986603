// Causal attention that never stores the T x T matrix. Rows of qkv are q of all heads, then k and v of the kv heads; row
// r = t * batch + b. This file: the kernels of float32 activations and of the key-value cache, on the ordinary units, a warp a
// query (or a key, backward). bf16 activations go through the tensor cores: on Hopper cuda/attention_forward.cu and
// cuda/attention_backward.cu, else attention_mma.cu.
//
// A lane has one key of 32: it computes the whole score, the warp agrees on the maximum (online softmax, Milakov and
// Gimelshein 2018), then the lanes share out the dims of the values. Backward, dq by queries and dk, dv by keys, each from
// the log-sum-exp of forward (Dao et al. 2022): twice the scores, but no atomics.
#include "attention.h"

#include <stdexcept>
#include <string>

#include "../../fp8-kernels/native/kernels.gen.h"

namespace fp8lm {

namespace {

constexpr int kWarps = 4, kAttentionThreads = kWarps * kWarp, kMostDims = 256, kPerLane = kMostDims / kWarp;

template <DType D> __device__ __forceinline__ float dotOf(const Ptr<const Code<D>> a, int64_t i, const Ptr<const Code<D>> b, int64_t j, int dims) {
  float s = 0.0f;
  for (int d = 0; d < dims; d++) s = math::mulAdd(Form<D>::decode(a[i + d]), Form<D>::decode(b[j + d]), s);
  return s;
}

/// What one warp does for one query over keys 0 .. count - 1, whose rows lie `stride` apart.
template <DType D>
__device__ __forceinline__ float attendOne(Ptr<Code<D>> y, int64_t yAt, Ptr<const Code<D>> q, int64_t qAt, Ptr<const Code<D>> k, int64_t kAt, Ptr<const Code<D>> v, int64_t vAt, int64_t stride, int64_t count, int dims, float scale) {
  const int lane = laneOf();
  float acc[kPerLane] = {}, top = -INFINITY, sum = 0.0f;
  for (int64_t first = 0; first < count; first += kWarp) {
    const int64_t j = first + lane;
    const float s = j < count ? math::mul(dotOf<D>(q, qAt, k, kAt + j * stride, dims), scale) : -INFINITY;
    const float newTop = fmaxf(top, warpMax(s));
    const float p = j < count ? math::exp(s - newTop) : 0.0f, shrink = math::exp(top - newTop);
    sum = math::mulAdd(sum, shrink, warpSum(p));
    top = newTop;
#pragma unroll
    for (int c = 0; c < kPerLane; c++) acc[c] *= shrink;
    const int keys = count - first < kWarp ? int(count - first) : kWarp;
    for (int t = 0; t < keys; t++) {
      const float w = __shfl_sync(kAllLanes, p, t);
#pragma unroll
      for (int c = 0; c < kPerLane; c++)
        if (lane + c * kWarp < dims) acc[c] = math::mulAdd(w, Form<D>::decode(v[vAt + (first + t) * stride + lane + c * kWarp]), acc[c]);
    }
  }
  const float inv = math::div(1.0f, sum);
#pragma unroll
  for (int c = 0; c < kPerLane; c++)
    if (lane + c * kWarp < dims) y[yAt + lane + c * kWarp] = Form<D>::encode(math::mul(acc[c], inv));
  return top + logf(sum);
}

template <DType D> __global__ void __launch_bounds__(kAttentionThreads, 4) forwardKernel(Ptr<Code<D>> y, Ptr<float> lse, Ptr<const Code<D>> qkv, AttentionShape a, float scale) {
  beginKernel();
  const int64_t n = a.seq * a.batch * a.heads;
  for (int64_t i = int64_t(blockIdx.x) * kWarps + warpOf(); i < n; i += int64_t(gridDim.x) * kWarps) {
    const int64_t t = i % a.seq, bh = i / a.seq, h = bh % a.heads, b = bh / a.heads, row = t * a.batch + b;
    const int64_t kAt = b * a.width() + (a.heads + a.kvHead(h)) * a.dims, vAt = kAt + a.kvHeads * a.dims;
    const float l = attendOne<D>(y, (row * a.heads + h) * a.dims, qkv, row * a.width() + h * a.dims, qkv, kAt, qkv, vAt, a.batch * a.width(), t + 1, int(a.dims), scale);
    if (laneOf() == 0) lse[i] = l;
  }
}

template <DType D> __global__ void __launch_bounds__(kThreads, 3) appendKernel(Ptr<Code<D>> keys, Ptr<Code<D>> values, Ptr<const Code<D>> qkv, AttentionShape a, int64_t start) {
  beginKernel();
  const int64_t cached = a.kvHeads * a.dims, n = a.seq * a.batch * cached, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t row = i / cached, c = i % cached, at = row * a.width() + a.heads * a.dims + c;
    keys[(start * a.batch + row) * cached + c] = Code<D>(qkv[at]);
    values[(start * a.batch + row) * cached + c] = Code<D>(qkv[at + cached]);
  }
}

template <DType D> __global__ void __launch_bounds__(kAttentionThreads, 4) cachedKernel(Ptr<Code<D>> y, Ptr<const Code<D>> keys, Ptr<const Code<D>> values, Ptr<const Code<D>> qkv, AttentionShape a, int64_t start, float scale) {
  beginKernel();
  const int64_t n = a.seq * a.batch * a.heads, cached = a.kvHeads * a.dims;
  for (int64_t i = int64_t(blockIdx.x) * kWarps + warpOf(); i < n; i += int64_t(gridDim.x) * kWarps) {
    const int64_t row = i / a.heads, h = i % a.heads, at = row % a.batch * cached + a.kvHead(h) * a.dims;
    attendOne<D>(y, i * a.dims, qkv, row * a.width() + h * a.dims, keys, at, values, at, a.batch * cached, start + row / a.batch + 1, int(a.dims), scale);
  }
}

/// dy . y of each row and head, in lse's order.
template <DType D> __global__ void __launch_bounds__(kThreads, 3) rowDotsKernel(Ptr<float> dots, Ptr<const Code<D>> dy, Ptr<const Code<D>> y, AttentionShape a) {
  beginKernel();
  const int64_t n = a.seq * a.batch * a.heads, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t t = i % a.seq, bh = i / a.seq, h = bh % a.heads, b = bh / a.heads, at = ((t * a.batch + b) * a.heads + h) * a.dims;
    dots[i] = dotOf<D>(dy, at, y, at, int(a.dims));
  }
}

/// dq: a warp a query; a lane a key.
template <DType D> __global__ void __launch_bounds__(kAttentionThreads, 4) queryGradientKernel(Ptr<Code<D>> dqkv, Ptr<const Code<D>> dy, Ptr<const float> dots, Ptr<const float> lse, Ptr<const Code<D>> qkv, AttentionShape a, float scale) {
  beginKernel();
  const int64_t n = a.seq * a.batch * a.heads, width = a.width();
  const int lane = laneOf(), dims = int(a.dims);
  for (int64_t i = int64_t(blockIdx.x) * kWarps + warpOf(); i < n; i += int64_t(gridDim.x) * kWarps) {
    const int64_t t = i % a.seq, bh = i / a.seq, h = bh % a.heads, b = bh / a.heads, row = t * a.batch + b;
    const int64_t qAt = row * width + h * a.dims, dyAt = (row * a.heads + h) * a.dims;
    const float log = lse[i], dot = dots[i];
    float acc[kPerLane] = {};
    for (int64_t first = 0; first <= t; first += kWarp) {
      const int64_t j = first + lane, kAt = (j * a.batch + b) * width + (a.heads + a.kvHead(h)) * a.dims;
      float ds = 0.0f;
      if (j <= t) {
        const float p = math::exp(math::mul(dotOf<D>(qkv, qAt, qkv, kAt, dims), scale) - log);
        ds = p * (dotOf<D>(dy, dyAt, qkv, kAt + a.kvHeads * a.dims, dims) - dot) * scale;
      }
      const int keys = t + 1 - first < kWarp ? int(t + 1 - first) : kWarp;
      for (int s = 0; s < keys; s++) {
        const float w = __shfl_sync(kAllLanes, ds, s);
        const int64_t at = ((first + s) * a.batch + b) * width + (a.heads + a.kvHead(h)) * a.dims;
#pragma unroll
        for (int c = 0; c < kPerLane; c++)
          if (lane + c * kWarp < dims) acc[c] = math::mulAdd(w, Form<D>::decode(qkv[at + lane + c * kWarp]), acc[c]);
      }
    }
#pragma unroll
    for (int c = 0; c < kPerLane; c++)
      if (lane + c * kWarp < dims) dqkv[qAt + lane + c * kWarp] = Form<D>::encode(acc[c]);
  }
}

/// dk and dv: a warp a key of a kv head; a lane a query, of each of the heads that share it.
template <DType D> __global__ void __launch_bounds__(kAttentionThreads, 4) keyGradientKernel(Ptr<Code<D>> dqkv, Ptr<const Code<D>> dy, Ptr<const float> dots, Ptr<const float> lse, Ptr<const Code<D>> qkv, AttentionShape a, float scale) {
  beginKernel();
  const int64_t n = a.seq * a.batch * a.kvHeads, width = a.width(), group = a.heads / a.kvHeads;
  const int lane = laneOf(), dims = int(a.dims);
  for (int64_t i = int64_t(blockIdx.x) * kWarps + warpOf(); i < n; i += int64_t(gridDim.x) * kWarps) {
    const int64_t j = i % a.seq, bg = i / a.seq, g = bg % a.kvHeads, b = bg / a.kvHeads;
    const int64_t kAt = (j * a.batch + b) * width + (a.heads + g) * a.dims, vAt = kAt + a.kvHeads * a.dims;
    float dk[kPerLane] = {}, dv[kPerLane] = {};
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
      for (int64_t first = j; first < a.seq; first += kWarp) {
        const int64_t t = first + lane;
        float p = 0.0f, ds = 0.0f;
        if (t < a.seq) {
          const int64_t row = t * a.batch + b, at = (b * a.heads + h) * a.seq + t;
          p = math::exp(math::mul(dotOf<D>(qkv, row * width + h * a.dims, qkv, kAt, dims), scale) - lse[at]);
          ds = p * (dotOf<D>(dy, (row * a.heads + h) * a.dims, qkv, vAt, dims) - dots[at]) * scale;
        }
        const int queries = a.seq - first < kWarp ? int(a.seq - first) : kWarp;
        for (int s = 0; s < queries; s++) {
          const float wp = __shfl_sync(kAllLanes, p, s), ws = __shfl_sync(kAllLanes, ds, s);
          const int64_t row = (first + s) * a.batch + b;
#pragma unroll
          for (int c = 0; c < kPerLane; c++) {
            const int d = lane + c * kWarp;
            if (d >= dims) continue;
            dv[c] = math::mulAdd(wp, Form<D>::decode(dy[(row * a.heads + h) * a.dims + d]), dv[c]);
            dk[c] = math::mulAdd(ws, Form<D>::decode(qkv[row * width + h * a.dims + d]), dk[c]);
          }
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kPerLane; c++) {
      const int d = lane + c * kWarp;
      if (d >= dims) continue;
      dqkv[kAt + d] = Form<D>::encode(dk[c]);
      dqkv[vAt + d] = Form<D>::encode(dv[c]);
    }
  }
}

AttentionShape shapeOf(int64_t seq, int64_t batch, int64_t heads, int64_t kvHeads, int64_t dims) {
  if (kvHeads == 0 || heads % kvHeads) throw std::runtime_error("heads is " + std::to_string(heads) + "; expected a multiple of kv_heads (" + std::to_string(kvHeads) + ")");
  if (dims > kMostDims) throw std::runtime_error("head_dim is " + std::to_string(dims) + "; at most " + std::to_string(kMostDims) + " is supported on CUDA");
  return {seq, batch, heads, kvHeads, dims};
}

}  // namespace

void attention_forward(const Tensor& y, const Tensor& lse, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, double softmax_scale) {
  const AttentionShape a = shapeOf(seq, batch, heads, kv_heads, head_dim);
  if (seq * batch * heads == 0 || head_dim == 0) return;
  if (y.dtype != qkv.dtype) throw std::runtime_error("y and qkv must have the same dtype");
#if !defined(FP8_SIM)
  if (wgmmaAttentionForward(y, lse, qkv, a, float(softmax_scale))) return;
#endif
  if (mmaAttentionForward(y, lse, qkv, a, float(softmax_scale))) return;
  withAct(qkv.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    launch("attention_forward", forwardKernel<D>, dim3(blocksFor(seq * batch * heads, kWarps)), dim3(kAttentionThreads), ptr<Code<D>>(y, "y"), ptr<float>(lse, "lse"), ptr<const Code<D>>(qkv, "qkv"), a, float(softmax_scale));
  });
}

void attention_backward(const Tensor& dqkv, const Tensor& dy, const Tensor& y, const Tensor& lse, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, double softmax_scale) {
  const AttentionShape a = shapeOf(seq, batch, heads, kv_heads, head_dim);
  if (seq * batch * heads == 0 || head_dim == 0) return;
  if (dqkv.dtype != qkv.dtype || dy.dtype != qkv.dtype || y.dtype != qkv.dtype) throw std::runtime_error("dqkv, dy, y and qkv must have the same dtype");
  const int64_t n = seq * batch * heads;
  const float scale = float(softmax_scale);
#if !defined(FP8_SIM)
  if (wgmmaAttentionBackward(dqkv, dy, y, lse, qkv, a, scale)) return;
#endif
  const Scratch scratch(size_t(n) * sizeof(float));
  const Ptr<float> dots = scratch.as<float>("dy . y");
  withAct(qkv.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    const auto in = ptr<const Code<D>>(qkv, "qkv"), dyIn = ptr<const Code<D>>(dy, "dy");
    const auto out = ptr<Code<D>>(dqkv, "dqkv");
    const auto log = ptr<const float>(lse, "lse");
    launch("attention_backward", rowDotsKernel<D>, dim3(blocksFor(n, kThreads)), dim3(kThreads), dots, dyIn, ptr<const Code<D>>(y, "y"), a);
    if (mmaAttentionBackward(dqkv, dy, dots, lse, qkv, a, scale)) return;
    launch("attention_backward", queryGradientKernel<D>, dim3(blocksFor(n, kWarps)), dim3(kAttentionThreads), out, dyIn, dots, log, in, a, scale);
    launch("attention_backward", keyGradientKernel<D>, dim3(blocksFor(seq * batch * kv_heads, kWarps)), dim3(kAttentionThreads), out, dyIn, dots, log, in, a, scale);
  });
}

void attention_cached(const Tensor& y, const Tensor& keys, const Tensor& values, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t start, int64_t max_seq, double softmax_scale) {
  const AttentionShape a = shapeOf(seq, batch, heads, kv_heads, head_dim);
  if (start + seq > max_seq) throw std::runtime_error("positions [" + std::to_string(start) + ", " + std::to_string(start + seq) + ") end beyond " + std::to_string(max_seq));
  if (y.dtype != qkv.dtype || keys.dtype != qkv.dtype || values.dtype != qkv.dtype) throw std::runtime_error("y, keys, values and qkv must have the same dtype");
  if (seq * batch * heads == 0 || head_dim == 0) return;
  withAct(qkv.dtype, [&](auto d) {
    constexpr DType D = decltype(d)::value;
    const auto in = ptr<const Code<D>>(qkv, "qkv");
    const auto k = ptr<Code<D>>(keys, "keys"), v = ptr<Code<D>>(values, "values");
    launch("attention_cached", appendKernel<D>, dim3(blocksFor(seq * batch * kv_heads * head_dim, kThreads)), dim3(kThreads), k, v, in, a, start);
    launch("attention_cached", cachedKernel<D>, dim3(blocksFor(seq * batch * heads, kWarps)), dim3(kAttentionThreads), ptr<Code<D>>(y, "y"), k, v, in, a, start, float(softmax_scale));
  });
}

}  // namespace fp8lm
