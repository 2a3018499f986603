// Causal attention in bf16 on the tensor cores (FlashAttention-2: Dao 2023), forward and backward.
//
// A block has 64 rows of one head, each of its four warps 16: the rows of one mma. Tiles of the other side pass through shared
// memory as they lie in qkv; where a product needs them the other way round, ldmatrix turns them on the way to the registers.
// Scores and probabilities never leave the registers: the accumulator of one product is, in pairs, the operand of the next.
//
//   forward        rows are queries: s = q k^T, online softmax, o += p v
//   query gradient rows are queries: s = q k^T, p = e^(s - lse), dp = dy v^T, ds = p (dp - dy . y), dq += ds k
//   key gradient   rows are keys, of all heads that share them: s^T = k q^T, dv += p^T dy, dp^T = v dy^T, dk += ds^T q
//
// Two kernels backward instead of one: the scores are computed twice, but each result has one writer, so no float atomics
// and the same bits every time. Head dims up to 128, padded with zeros to a multiple of 16. On Hopper larger heads go to
// cuda/attention_forward.cu and cuda/attention_backward.cu instead.
#include <cmath>

#include "attention.h"

namespace fp8lm {

namespace {

using Half = uint16_t;
constexpr int kMmaWarps = 4, kMmaThreads = kMmaWarps * kWarp, kRows = kMmaWarps * 16;
constexpr float kLog2e = 1.44269504f;

/// Words of two values a shared row of D takes: padded, so that the eight rows of a fragment lie in different banks.
template <int D> constexpr int strideOf = D / 2 + 4;

/// Rows of one head in a tensor: row t of batch b starts at t * stride + first.
struct HeadRows {
  Ptr<const Half> data;
  int64_t first, stride, count;
  int dims;
  bool vectors;  // 16-byte loads are possible

  __device__ __forceinline__ unsigned pair(int64_t t, int d) const {
    if (t >= count || d >= dims) return 0u;
    const int64_t at = t * stride + first + d;
    const unsigned low = Half(data[at]), high = d + 1 < dims ? Half(data[at + 1]) : Half(0);
    return low | high << 16;
  }
};

/// Copies rows [row, row + ROWS) into shared memory, zeros beyond the ends.
template <int D, int ROWS> __device__ __forceinline__ void fillRows(const Shared<uint32_t> tile, const HeadRows& x, int64_t row) {
  if (x.vectors) {
    constexpr int per = D / 8;
    for (int i = int(threadIdx.x); i < ROWS * per; i += kMmaThreads) {
      const int r = i / per, d = i % per * 8, at = r * strideOf<D> + d / 2;
      if (row + r < x.count && d < x.dims) {
        const Vec<Half> v = loadVec(x.data, (row + r) * x.stride + x.first + d);
        Vec<uint32_t> w;
#pragma unroll
        for (int q = 0; q < 4; q++) w.v[q] = uint32_t(v.v[2 * q]) | uint32_t(v.v[2 * q + 1]) << 16;
        storeVec(tile, at, w);
      } else {
        storeVec(tile, at, Vec<uint32_t>{});
      }
    }
    return;
  }
  for (int i = int(threadIdx.x); i < ROWS * D / 2; i += kMmaThreads) {
    const int r = i / (D / 2), w = i % (D / 2);
    tile[r * strideOf<D> + w] = x.pair(row + r, 2 * w);
  }
}

/// a of mmaBf16: rows [row, row + 16), columns [16 step, 16 step + 16) of a shared tile.
template <int D> __device__ __forceinline__ void loadA(unsigned a[4], const Shared<uint32_t> tile, int row, int step) {
  loadMatrices(a, tile, (row + laneOf() % 16) * strideOf<D> + 8 * step + laneOf() / 16 * 4);
}

/// Two b of mmaBf16 for products with the transpose of the tile: its rows [row, row + 8) and the next 8 are n.
template <int D> __device__ __forceinline__ void loadB(unsigned b[4], const Shared<uint32_t> tile, int row, int step) {
  loadMatrices(b, tile, (row + laneOf() / 16 * 8 + laneOf() % 8) * strideOf<D> + 8 * step + laneOf() / 8 % 2 * 4);
}

/// Two b of mmaBf16 for products with the tile: its rows [row, row + 16) are k, its columns [column, column + 8) and the next 8 n.
template <int D> __device__ __forceinline__ void loadBTransposed(unsigned b[4], const Shared<uint32_t> tile, int row, int column) {
  loadTransposed(b, tile, (row + laneOf() % 16) * strideOf<D> + column / 2 + laneOf() / 16 * 4);
}

/// a of mmaBf16 straight from memory, once a block.
__device__ __forceinline__ void loadAGlobal(unsigned a[4], const HeadRows& x, int64_t row, int step) {
  const int64_t r = row + laneOf() / 4;
  const int d = 16 * step + 2 * (laneOf() % 4);
  a[0] = x.pair(r, d);
  a[1] = x.pair(r + 8, d);
  a[2] = x.pair(r, d + 8);
  a[3] = x.pair(r + 8, d + 8);
}

/// Two accumulators side by side, 16 x 16, as the a of the next product.
__device__ __forceinline__ void asA(unsigned a[4], const float left[4], const float right[4]) {
  a[0] = bf16Pair(left[0], left[1]);
  a[1] = bf16Pair(left[2], left[3]);
  a[2] = bf16Pair(right[0], right[1]);
  a[3] = bf16Pair(right[2], right[3]);
}

__device__ __forceinline__ float quadMax(float v) {
  v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(kAllLanes, v, 2));
}
__device__ __forceinline__ float quadSum(float v) {
  v += __shfl_xor_sync(kAllLanes, v, 1);
  return v + __shfl_xor_sync(kAllLanes, v, 2);
}

/// Stores rows [row, row + 16) of a result, times a factor for each of the lane's two rows.
template <int D> __device__ __forceinline__ void storeRows(Ptr<Half> y, int64_t first, int64_t stride, int64_t count, int dims, int64_t row, const float acc[D / 8][4], float upper, float lower) {
#pragma unroll
  for (int i = 0; i < D / 8; i++)
#pragma unroll
    for (int q = 0; q < 4; q++) {
      const int64_t t = row + laneOf() / 4 + q / 2 * 8;
      const int d = 8 * i + 2 * (laneOf() % 4) + q % 2;
      if (t < count && d < dims) y[t * stride + first + d] = encodeBF16(acc[i][q] * (q < 2 ? upper : lower));
    }
}

__device__ __forceinline__ HeadRows rowsOf(Ptr<const Half> data, int64_t b, int64_t at, int64_t width, const AttentionShape& a, bool vectors) {
  return {data, b * width + at, a.batch * width, a.seq, int(a.dims), vectors};
}

template <int D>
__global__ void __launch_bounds__(kMmaThreads, 2) mmaForwardKernel(Ptr<Half> y, Ptr<float> lse, Ptr<const Half> qkv, AttentionShape a, float scale, bool vectors) {
  beginKernel();
  constexpr int kKeys = 64;
  FP8_SHARED(uint32_t, tileK, kKeys * strideOf<D>);
  FP8_SHARED(uint32_t, tileV, kKeys * strideOf<D>);
  const int64_t bh = blockIdx.y, h = bh % a.heads, b = bh / a.heads;
  // The rows with most keys first: they take longest.
  const int64_t row = int64_t(gridDim.x - 1 - blockIdx.x) * kRows, mine = row + warpOf() * 16;
  const HeadRows q = rowsOf(qkv, b, h * a.dims, a.width(), a, vectors), k = rowsOf(qkv, b, (a.heads + a.kvHead(h)) * a.dims, a.width(), a, vectors),
                 v = rowsOf(qkv, b, (a.heads + a.kvHeads + a.kvHead(h)) * a.dims, a.width(), a, vectors);
  unsigned fq[D / 16][4];
#pragma unroll
  for (int i = 0; i < D / 16; i++) loadAGlobal(fq[i], q, mine, i);
  float acc[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  const float c = scale * kLog2e;
  const int64_t keys = row + kRows < a.seq ? row + kRows : a.seq;
  for (int64_t first = 0; first < keys; first += kKeys) {
    __syncthreads();
    fillRows<D, kKeys>(tileK, k, first);
    fillRows<D, kKeys>(tileV, v, first);
    __syncthreads();
    if (first > mine + 15) continue;  // all masked for this warp; it still takes part in the barriers
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int j = 0; j < kKeys / 8; j += 2)
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        unsigned fb[4];
        loadB<D>(fb, tileK, 8 * j, i);
        mmaBf16(s[j], fq[i], fb);
        mmaBf16(s[j + 1], fq[i], fb + 2);
      }
    float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int64_t t = mine + laneOf() / 4 + e / 2 * 8, key = first + 8 * j + 2 * (laneOf() % 4) + e % 2;
        if (key > t) s[j][e] = -INFINITY;
        most[e / 2] = fmaxf(most[e / 2], s[j][e]);
      }
    float shrink[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const float now = fmaxf(top[r], quadMax(most[r]));
      shrink[r] = fastExp2((top[r] - now) * c);
      top[r] = now;
      sum[r] *= shrink[r];
    }
#pragma unroll
    for (int j = 0; j < kKeys / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        s[j][e] = fastExp2((s[j][e] - top[e / 2]) * c);
        sum[e / 2] += s[j][e];
      }
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][e] *= shrink[e / 2];
#pragma unroll
    for (int step = 0; step < kKeys / 16; step++) {
      unsigned fp[4];
      asA(fp, s[2 * step], s[2 * step + 1]);
#pragma unroll
      for (int i = 0; i < D / 8; i += 2) {
        unsigned fb[4];
        loadBTransposed<D>(fb, tileV, 16 * step, 8 * i);
        mmaBf16(acc[i], fp, fb);
        mmaBf16(acc[i + 1], fp, fb + 2);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    sum[r] = quadSum(sum[r]);
    const int64_t t = mine + laneOf() / 4 + 8 * r;
    if (laneOf() % 4 == 0 && t < a.seq) lse[bh * a.seq + t] = top[r] * scale + logf(sum[r]);
  }
  storeRows<D>(y, (b * a.heads + h) * a.dims, a.batch * a.heads * a.dims, a.seq, int(a.dims), mine, acc, 1.0f / sum[0], 1.0f / sum[1]);
}

template <int D>
__global__ void __launch_bounds__(kMmaThreads, 2) mmaQueryGradientKernel(Ptr<Half> dqkv, Ptr<const Half> dy, Ptr<const float> dots, Ptr<const float> lse, Ptr<const Half> qkv, AttentionShape a, float scale, bool vectors) {
  beginKernel();
  constexpr int kKeys = 32;
  FP8_SHARED(uint32_t, tileK, kKeys * strideOf<D>);
  FP8_SHARED(uint32_t, tileV, kKeys * strideOf<D>);
  const int64_t bh = blockIdx.y, h = bh % a.heads, b = bh / a.heads;
  const int64_t row = int64_t(gridDim.x - 1 - blockIdx.x) * kRows, mine = row + warpOf() * 16;
  const HeadRows q = rowsOf(qkv, b, h * a.dims, a.width(), a, vectors), k = rowsOf(qkv, b, (a.heads + a.kvHead(h)) * a.dims, a.width(), a, vectors),
                 v = rowsOf(qkv, b, (a.heads + a.kvHeads + a.kvHead(h)) * a.dims, a.width(), a, vectors), g = rowsOf(dy, b, h * a.dims, a.heads * a.dims, a, vectors);
  unsigned fq[D / 16][4], fg[D / 16][4];
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    loadAGlobal(fq[i], q, mine, i);
    loadAGlobal(fg[i], g, mine, i);
  }
  float log[2], dot[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int64_t t = mine + laneOf() / 4 + 8 * r;
    log[r] = t < a.seq ? lse[bh * a.seq + t] * kLog2e : 0.0f;
    dot[r] = t < a.seq ? float(dots[bh * a.seq + t]) : 0.0f;
  }
  float acc[D / 8][4] = {};
  const float c = scale * kLog2e;
  const int64_t keys = row + kRows < a.seq ? row + kRows : a.seq;
  for (int64_t first = 0; first < keys; first += kKeys) {
    __syncthreads();
    fillRows<D, kKeys>(tileK, k, first);
    fillRows<D, kKeys>(tileV, v, first);
    __syncthreads();
    if (first > mine + 15) continue;
#pragma unroll(D > 64 ? 1 : kKeys / 16)  // registers: 128 dims fill them
    for (int step = 0; step < kKeys / 16; step++) {
      float s[2][4] = {}, dp[2][4] = {};
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        unsigned fb[4];
        loadB<D>(fb, tileK, 16 * step, i);
        mmaBf16(s[0], fq[i], fb);
        mmaBf16(s[1], fq[i], fb + 2);
        loadB<D>(fb, tileV, 16 * step, i);
        mmaBf16(dp[0], fg[i], fb);
        mmaBf16(dp[1], fg[i], fb + 2);
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int64_t t = mine + laneOf() / 4 + e / 2 * 8, key = first + 16 * step + 8 * j + 2 * (laneOf() % 4) + e % 2;
          const float p = key <= t && t < a.seq ? fastExp2(fmaf(s[j][e], c, -log[e / 2])) : 0.0f;
          s[j][e] = p * (dp[j][e] - dot[e / 2]);
        }
      }
      unsigned fs[4];
      asA(fs, s[0], s[1]);
#pragma unroll
      for (int i = 0; i < D / 8; i += 2) {
        unsigned fb[4];
        loadBTransposed<D>(fb, tileK, 16 * step, 8 * i);
        mmaBf16(acc[i], fs, fb);
        mmaBf16(acc[i + 1], fs, fb + 2);
      }
    }
  }
  storeRows<D>(dqkv, b * a.width() + h * a.dims, a.batch * a.width(), a.seq, int(a.dims), mine, acc, scale, scale);
}

/// dk, dv or both: at 128 dims the registers hold only one of them.
template <int D, bool ofK, bool ofV>
__global__ void __launch_bounds__(kMmaThreads, 2) mmaKeyGradientKernel(Ptr<Half> dqkv, Ptr<const Half> dy, Ptr<const float> dots, Ptr<const float> lse, Ptr<const Half> qkv, AttentionShape a, float scale, bool vectors) {
  beginKernel();
  constexpr int kQueries = 16;
  FP8_SHARED(uint32_t, tileK, kRows * strideOf<D>);
  FP8_SHARED(uint32_t, tileV, kRows * strideOf<D>);
  FP8_SHARED(uint32_t, tileQ, kQueries * strideOf<D>);
  FP8_SHARED(uint32_t, tileG, kQueries * strideOf<D>);
  FP8_SHARED(float, rowLog, kQueries);
  FP8_SHARED(float, rowDot, kQueries);
  const int64_t bg = blockIdx.y, kv = bg % a.kvHeads, b = bg / a.kvHeads, group = a.heads / a.kvHeads;
  const int64_t row = int64_t(blockIdx.x) * kRows, mine = row + warpOf() * 16;
  const HeadRows k = rowsOf(qkv, b, (a.heads + kv) * a.dims, a.width(), a, vectors), v = rowsOf(qkv, b, (a.heads + a.kvHeads + kv) * a.dims, a.width(), a, vectors);
  fillRows<D, kRows>(tileK, k, row);
  if constexpr (ofK) fillRows<D, kRows>(tileV, v, row);
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  const float c = scale * kLog2e;
  for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
    const HeadRows q = rowsOf(qkv, b, h * a.dims, a.width(), a, vectors), g = rowsOf(dy, b, h * a.dims, a.heads * a.dims, a, vectors);
    const int64_t stats = (b * a.heads + h) * a.seq;
    for (int64_t first = row; first < a.seq; first += kQueries) {
      __syncthreads();
      fillRows<D, kQueries>(tileQ, q, first);
      fillRows<D, kQueries>(tileG, g, first);
      if (threadIdx.x < kQueries) {
        const int64_t t = first + threadIdx.x;
        rowLog[threadIdx.x] = t < a.seq ? lse[stats + t] * kLog2e : 0.0f;
        rowDot[threadIdx.x] = t < a.seq ? float(dots[stats + t]) : 0.0f;
      }
      __syncthreads();
      if (first + kQueries <= mine) continue;  // all these queries come before this warp's keys
      float s[2][4] = {}, dp[2][4] = {};
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        unsigned fa[4], fb[4];
        loadA<D>(fa, tileK, warpOf() * 16, i);
        loadB<D>(fb, tileQ, 0, i);
        mmaBf16(s[0], fa, fb);
        mmaBf16(s[1], fa, fb + 2);
        if constexpr (ofK) {
          loadA<D>(fa, tileV, warpOf() * 16, i);
          loadB<D>(fb, tileG, 0, i);
          mmaBf16(dp[0], fa, fb);
          mmaBf16(dp[1], fa, fb + 2);
        }
      }
#pragma unroll
      for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int query = 8 * j + 2 * (laneOf() % 4) + e % 2;
          const int64_t key = mine + laneOf() / 4 + e / 2 * 8, t = first + query;
          const float p = key <= t && t < a.seq ? fastExp2(fmaf(s[j][e], c, -rowLog[query])) : 0.0f;
          dp[j][e] = p * (dp[j][e] - rowDot[query]);
          s[j][e] = p;
        }
      unsigned fp[4], fs[4];
      asA(fp, s[0], s[1]);
      asA(fs, dp[0], dp[1]);
#pragma unroll
      for (int i = 0; i < D / 8; i += 2) {
        unsigned fb[4];
        if constexpr (ofV) {
          loadBTransposed<D>(fb, tileG, 0, 8 * i);
          mmaBf16(dv[i], fp, fb);
          mmaBf16(dv[i + 1], fp, fb + 2);
        }
        if constexpr (ofK) {
          loadBTransposed<D>(fb, tileQ, 0, 8 * i);
          mmaBf16(dk[i], fs, fb);
          mmaBf16(dk[i + 1], fs, fb + 2);
        }
      }
    }
  }
  if constexpr (ofK) storeRows<D>(dqkv, b * a.width() + (a.heads + kv) * a.dims, a.batch * a.width(), a.seq, int(a.dims), mine, dk, scale, scale);
  if constexpr (ofV) storeRows<D>(dqkv, b * a.width() + (a.heads + a.kvHeads + kv) * a.dims, a.batch * a.width(), a.seq, int(a.dims), mine, dv, 1.0f, 1.0f);
}

template <int D> using Dims = std::integral_constant<int, D>;

/// Calls f(Dims<D>{}) for the smallest D that holds the head dim.
template <class F> bool withDims(int64_t dims, F&& f) {
  if (dims <= 16) f(Dims<16>{});
  else if (dims <= 32) f(Dims<32>{});
  else if (dims <= 64) f(Dims<64>{});
  else if (dims <= 128) f(Dims<128>{});
  else return false;
  return true;
}

bool isFor(const Tensor& qkv, const AttentionShape& a) { return qkv.dtype == DType::bf16 && a.dims <= 128 && a.batch * a.heads <= 65535; }

}  // namespace

bool mmaAttentionForward(const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale) {
  if (!isFor(qkv, a)) return false;
  const dim3 grid(unsigned((a.seq + kRows - 1) / kRows), unsigned(a.batch * a.heads));
  return withDims(a.dims, [&](auto d) {
    launch("attention_forward", mmaForwardKernel<decltype(d)::value>, grid, dim3(kMmaThreads), ptr<Half>(y, "y"), ptr<float>(lse, "lse"), ptr<const Half>(qkv, "qkv"), a, scale,
           a.dims % 8 == 0 && isAligned(qkv));
  });
}

bool mmaAttentionBackward(const Tensor& dqkv, const Tensor& dy, Ptr<const float> dots, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale) {
  if (!isFor(qkv, a)) return false;
  const unsigned tiles = unsigned((a.seq + kRows - 1) / kRows);
  const bool vectors = a.dims % 8 == 0 && isAligned(qkv) && isAligned(dy);
  const auto out = ptr<Half>(dqkv, "dqkv");
  const auto in = ptr<const Half>(qkv, "qkv"), g = ptr<const Half>(dy, "dy");
  const auto log = ptr<const float>(lse, "lse");
  return withDims(a.dims, [&](auto d) {
    constexpr int D = decltype(d)::value;
    launch("attention_backward", mmaQueryGradientKernel<D>, dim3(tiles, unsigned(a.batch * a.heads)), dim3(kMmaThreads), out, g, dots, log, in, a, scale, vectors);
    const auto keys = [&](auto kernel) { launch("attention_backward", kernel, dim3(tiles, unsigned(a.batch * a.kvHeads)), dim3(kMmaThreads), out, g, dots, log, in, a, scale, vectors); };
    if constexpr (D <= 64) return keys(&mmaKeyGradientKernel<D, true, true>);
    keys(&mmaKeyGradientKernel<D, true, false>);
    keys(&mmaKeyGradientKernel<D, false, true>);
  });
}

}  // namespace fp8lm
