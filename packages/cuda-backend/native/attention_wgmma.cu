// Causal attention in bf16 on Hopper (sm_90a): the algorithm of attention_mma.cu with the products of whole warpgroups.
//
// A warpgroup has 64 rows of one head and passes over boxes of 64 rows of the other side, which the copy engine brings into a
// ring of shared memory that the block's warpgroups share. Its operands lie there as they lie in qkv, whichever way round a
// product takes them; its own rows are in registers where there is room. While a warpgroup turns scores into probabilities,
// the tensor cores work for another one: two or more are resident, and nothing but the ring ties them to each other.
//
//   forward        rows are queries: s = q k^T, online softmax, o += p v
//   query gradient rows are queries: s = q k^T, p = e^(s - lse), dp = dy v^T, ds = p (dp - dy . y), dq += ds k
//   key gradient   rows are keys, of all heads that share them: s^T = k q^T, dv += p^T dy, dp^T = v dy^T, dk += ds^T q
//
// Accuracy: operands are bf16, and so are p and ds as operands of the second products; sums, softmax and lse are float32, with
// 2^x of the special function unit (2 ulp). Results are rounded once. Same inputs, same bits: each result has one writer.
#include "attention.h"

#if defined(FP8_SIM)

namespace fp8lm {
bool wgmmaAttentionForward(const Tensor&, const Tensor&, const Tensor&, const AttentionShape&, float) { return false; }
bool wgmmaAttentionBackward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const AttentionShape&, float) { return false; }
}  // namespace fp8lm

#else

#include <dlfcn.h>

#include <cmath>

#include "cuda/hopper.h"

namespace fp8lm {

namespace {

using namespace hopper;
using Half = uint16_t;

constexpr float kLog2e = 1.44269504f;
constexpr int kGroupThreads = 128;  // of a warpgroup

#if FP8_HOPPER
__device__ __forceinline__ float quadMax(float v) {
  v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(kAllLanes, v, 2));
}
__device__ __forceinline__ float quadSum(float v) {
  v += __shfl_xor_sync(kAllLanes, v, 1);
  return v + __shfl_xor_sync(kAllLanes, v, 2);
}

/// Stores the lane's two rows of an accumulator of 64 x D as bf16, times a factor each: 16 bytes a lane and four pieces of 8
/// columns, which the lanes of a quad trade so that each has a whole one.
template <int N> __device__ __forceinline__ void storeRows(Half* y, int64_t first, int64_t stride, int row, int count, int dims, const float (&acc)[N], float upper, float lower) {
  const int lane = int(threadIdx.x) % 32, own = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float f = r ? lower : upper;
    const int t = row + 8 * r;
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
      unsigned w[4], out[4];
#pragma unroll
      for (int k = 0; k < 4; k++) w[k] = packBf16(acc[16 * i + 4 * k + 2 * r] * f, acc[16 * i + 4 * k + 2 * r + 1] * f);
      // Round x: lane `own` gives its word of piece own ^ x to that lane.
      unsigned got[4];
#pragma unroll
      for (int x = 0; x < 4; x++) {
        const int to = own ^ x;
        const unsigned give = to & 2 ? (to & 1 ? w[3] : w[2]) : (to & 1 ? w[1] : w[0]);
        got[x] = x ? __shfl_xor_sync(kAllLanes, give, x) : give;
      }
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int x = own ^ k;
        out[k] = x & 2 ? (x & 1 ? got[3] : got[2]) : (x & 1 ? got[1] : got[0]);
      }
      const int d = 32 * i + 8 * own;
      if (t < count && d < dims) *reinterpret_cast<uint4*>(y + first + t * stride + d) = make_uint4(out[0], out[1], out[2], out[3]);
    }
  }
}

/// The same in all lanes of a warp, which the shuffle tells the compiler: products must not lie where lanes could part.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(kAllLanes, int(threadIdx.x) / kGroupThreads, 0); }

/// s = a b^T over D columns; a in boxes of 64 columns that lie `nextA` bytes apart, b of `nextB`.
template <int D, int N> __device__ __forceinline__ void scores(float (&s)[N], uint32_t a, int nextA, uint32_t b, int nextB) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) product<false>(s, operand(a + k / 4 * nextA + k % 4 * 32), operand(b + k / 4 * nextB + k % 4 * 32), k > 0);
}
template <int D, int N> __device__ __forceinline__ void scores(float (&s)[N], const unsigned (&a)[D / 4], uint32_t b, int nextB) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) product<false>(s, a + 4 * k, operand(b + k / 4 * nextB + k % 4 * 32), k > 0);
}
/// acc += p b over `rows` rows of b, fragments of p in registers.
template <int N, int W> __device__ __forceinline__ void accumulate(float (&acc)[N], const unsigned (&p)[W], uint32_t b, int nextB) {
#pragma unroll
  for (int k = 0; k < W / 4; k++) product<true>(acc, p + 4 * k, operand(b + k * 16 * 128, nextB), 1);
}
template <int D> __device__ __forceinline__ void loadFragments(unsigned (&a)[D / 4], uint32_t boxes, int next) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) loadFragment(a + 4 * k, boxes + k / 4 * next, warpOf() % 4, k % 4);
}

/// Refills the ring, in the one thread that loads: with tile `filled` and on, `next` being the tile that this thread needs next.
/// Waits for the slower warpgroups only where that one is missing.
template <int STAGES, class Load> __device__ __forceinline__ void refill(int& filled, int next, int all, uint32_t empty, Load&& load) {
  for (; filled < all && filled < next + STAGES; filled++) {
    const uint32_t bar = empty + 8 * (filled % STAGES);
    const int parity = (filled / STAGES - 1) & 1;
    if (filled <= next) waitBarrier(bar, parity);
    else if (!testBarrier(bar, parity)) break;
    load(filled);
  }
}

extern __shared__ __align__(1024) char dynamicShared[];
__device__ __forceinline__ uint32_t sharedBase() { return sharedAddress(dynamicShared); }
#endif


/// Barriers first, in a kilobyte of their own; then the block's own boxes; then the ring.
template <int D, int WGS, int STAGES, int OWN, int STAGE> struct Layout {
  static constexpr int kOwn = 1024, kRing = kOwn + OWN, kBytes = kRing + STAGES * STAGE;
  static_assert(kBytes <= 227 * 1024, "more shared memory than a block can have");
};

template <int D, int WGS, int KEYS, int STAGES> using ForwardLayout = Layout<D, WGS, STAGES, WGS * kBoxRows * D * 2, 2 * KEYS * D * 2>;

template <int D, int WGS, int KEYS, int STAGES, bool inRegisters, int BLOCKS, bool overlaps>
__global__ void __launch_bounds__(WGS* kGroupThreads, BLOCKS) wgmmaForwardKernel(Half* y, float* lse, const __grid_constant__ CUtensorMap map, AttentionShape a, float scale, int heads, int tiles) {
#if FP8_HOPPER
  using L = ForwardLayout<D, WGS, KEYS, STAGES>;
  constexpr int kHalf = KEYS * 128, kTile = KEYS * D * 2, kStage = 2 * kTile;
  const uint32_t base = sharedBase(), own = base, full = base + 8, empty = full + 8 * STAGES, boxes = base + L::kOwn, ring = base + L::kRing;
  const int group = warpgroup();
  const int tile = int(blockIdx.x) / heads, bh = int(blockIdx.x) % heads;  // the longest tiles of all heads first
  const int h = bh % int(a.heads), b = bh / int(a.heads), kHead = int(a.heads + a.kvHead(h)), vHead = kHead + int(a.kvHeads);
  const int seq = int(a.seq), row = (tiles - 1 - tile) * WGS * kBoxRows;
  const auto tilesTo = [&](int end) { return ((end < seq ? end : seq) + KEYS - 1) / KEYS; };
  const int n = tilesTo(row + kBoxRows * (group + 1)), all = tilesTo(row + kBoxRows * WGS);
  const bool loads = threadIdx.x == (WGS - 1) * kGroupThreads;
  const auto load = [&](int j) {
    const uint32_t bar = full + 8 * (j % STAGES), to = ring + j % STAGES * kStage;
    arriveExpecting(bar, kStage);
#pragma unroll
    for (int i = 0; i < D / 64; i++)
#pragma unroll
      for (int r = 0; r < KEYS / 64; r++) {
        copyBox(to + i * kHalf + r * kBoxBytes, map, bar, 64 * i, kHead, b, j * KEYS + 64 * r);
        copyBox(to + kTile + i * kHalf + r * kBoxBytes, map, bar, 64 * i, vHead, b, j * KEYS + 64 * r);
      }
  };
  if (loads) {
    prefetchMap(map);
    initBarrier(own, 1);
    for (int i = 0; i < STAGES; i++) {
      initBarrier(full + 8 * i, 1);
      initBarrier(empty + 8 * i, 4 * WGS);
    }
    publishBarriers();
  }
  __syncthreads();
  if (loads) {
    arriveExpecting(own, WGS * kBoxRows * D * 2);
#pragma unroll
    for (int g = 0; g < WGS; g++)
#pragma unroll
      for (int i = 0; i < D / 64; i++) copyBox(boxes + (g * (D / 64) + i) * kBoxBytes, map, own, 64 * i, h, b, row + g * kBoxRows);
    for (int j = 0; j < STAGES && j < all; j++) load(j);
  }
  const uint32_t mineQ = boxes + group * (D / 64) * kBoxBytes;
  unsigned q[inRegisters ? D / 4 : 4];
  waitBarrier(own, 0);
  if constexpr (inRegisters) loadFragments<D>(q, mineQ, kBoxBytes);
  float acc[D / 2], s[KEYS / 2], top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  unsigned p[KEYS / 4];
#pragma unroll
  for (int i = 0; i < D / 2; i++) acc[i] = 0.0f;
  hold(acc);  // zeros in registers before the first product
  const float c = scale * kLog2e;
  const int laneRow = kBoxRows * group + 16 * (warpOf() % 4) + laneOf() / 4;
  const auto issueScores = [&](int j) {
    const uint32_t k = ring + j % STAGES * kStage;
    waitBarrier(full + 8 * (j % STAGES), j / STAGES & 1);
    beginProducts();
    if constexpr (inRegisters) scores<D>(s, q, k, kHalf);
    else scores<D>(s, mineQ, kBoxBytes, k, kHalf);
  };
  float shrink[2];
  // Scores of tile j to probabilities, in place.
  const auto softmax = [&](int j) {
    if (j == n - 1) {  // the only one with keys after a query
      const int last = row + laneRow - j * KEYS - 2 * (laneOf() % 4);
#pragma unroll
      for (int i = 0; i < KEYS / 2; i++)
        if (i / 4 * 8 + i % 2 > last + i % 4 / 2 * 8) s[i] = -INFINITY;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most[2] = {s[2 * r], s[2 * r + 1]};
#pragma unroll
      for (int i = 4; i < KEYS / 2; i += 4) {
        most[0] = fmaxf(most[0], s[i + 2 * r]);
        most[1] = fmaxf(most[1], s[i + 2 * r + 1]);
      }
      const float now = fmaxf(top[r], quadMax(fmaxf(most[0], most[1]))), shift = -now * c;
      shrink[r] = exp2Fast((top[r] - now) * c);
      top[r] = now;
      float part[2] = {};
#pragma unroll
      for (int i = 2 * r; i < KEYS / 2; i += 4) {
        s[i] = exp2Fast(fmaf(s[i], c, shift));
        s[i + 1] = exp2Fast(fmaf(s[i + 1], c, shift));
        part[0] += s[i];
        part[1] += s[i + 1];
      }
      sum[r] = fmaf(sum[r], shrink[r], part[0] + part[1]);
    }
  };
  const auto packed = [&] {
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) p[i] = packBf16(s[2 * i], s[2 * i + 1]);
    hold(p);
  };
  int filled = STAGES;
  issueScores(0);
  commitProducts();
  waitProducts<0>();
  hold(s);
  softmax(0);
  packed();
  for (int j = 1; j < n; j++) {
    if constexpr (overlaps) {
      issueScores(j);
      commitProducts();
      accumulate(acc, p, ring + (j - 1) % STAGES * kStage + kTile, kHalf);
      commitProducts();
      waitProducts<1>();
      hold(s);
      softmax(j);  // while the tensor cores add up the tile before
    } else {
      beginProducts();
      accumulate(acc, p, ring + (j - 1) % STAGES * kStage + kTile, kHalf);
      issueScores(j);
      commitProducts();
    }
    waitProducts<0>();
    hold(acc);
    hold(p);
    if (laneOf() == 0) arrive(empty + 8 * ((j - 1) % STAGES));
    if (loads) refill<STAGES>(filled, j + 1, all, empty, load);
    if constexpr (!overlaps) {
      hold(s);
      softmax(j);
    }
#pragma unroll
    for (int i = 0; i < D / 2; i++) acc[i] *= shrink[i / 2 % 2];
    hold(acc);
    packed();
  }
  beginProducts();
  accumulate(acc, p, ring + (n - 1) % STAGES * kStage + kTile, kHalf);
  commitProducts();
  waitProducts<0>();
  hold(acc);
  const int t = row + laneRow;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    sum[r] = quadSum(sum[r]);
    if (laneOf() % 4 == 0 && t + 8 * r < seq) lse[int64_t(bh) * seq + t + 8 * r] = fmaf(top[r], scale, logf(sum[r]));
  }
  storeRows(y, (int64_t(b) * a.heads + h) * a.dims, a.batch * a.heads * a.dims, t, seq, int(a.dims), acc, 1.0f / sum[0], 1.0f / sum[1]);
#else
  __trap();  // built for another chip than it runs on
#endif
}

/// lse * log2(e) and dy . y of each row, side by side, rows of a head padded to `padded`: there the first is +inf, so that p is 0.
/// Eight lanes a row, D / 64 pieces of 16 bytes a lane.
__global__ void __launch_bounds__(256, 4) rowStatsKernel(float2* stats, const Half* dy, const Half* y, const float* lse, AttentionShape a, int padded) {
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 8, n = a.batch * a.heads * padded;
  const int part = int(threadIdx.x) % 8;
  if (i >= n) return;
  // Consecutive rows of dy: all heads of a batch, then the next batch, then the next position.
  const int64_t bh = i % (a.batch * a.heads), t = i / (a.batch * a.heads);
  float dot = 0.0f;
  if (t < a.seq)
    for (int d = 8 * part; d < a.dims; d += 64) {
      const int64_t at = i * a.dims + d;
      const Vec<Half> u = loadVec(dy, at), v = loadVec(y, at);
#pragma unroll
      for (int k = 0; k < 8; k++) dot = fmaf(decodeBF16(u.v[k]), decodeBF16(v.v[k]), dot);
    }
  for (int x = 4; x > 0; x /= 2) dot += __shfl_xor_sync(kAllLanes, dot, x);
  if (part == 0) stats[bh * padded + t] = make_float2(t < a.seq ? lse[bh * a.seq + t] * kLog2e : INFINITY, dot);
}

template <int D, int WGS, int STAGES> using QueryLayout = Layout<D, WGS, STAGES, 2 * WGS * kBoxRows * D * 2, 2 * kBoxRows * D * 2>;

template <int D, int WGS, int STAGES, bool inRegisters, int BLOCKS, bool overlaps>
__global__ void __launch_bounds__(WGS* kGroupThreads, BLOCKS) wgmmaQueryGradientKernel(Half* dqkv, const float2* stats, int padded, const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap mapDy, AttentionShape a, float scale, int heads, int tiles) {
#if FP8_HOPPER
  using L = QueryLayout<D, WGS, STAGES>;
  constexpr int kTile = kBoxRows * D * 2, kStage = 2 * kTile;
  const uint32_t base = sharedBase(), own = base, full = base + 8, empty = full + 8 * STAGES, boxes = base + L::kOwn, ring = base + L::kRing;
  const int group = warpgroup();
  const int tile = int(blockIdx.x) / heads, bh = int(blockIdx.x) % heads;  // the longest tiles of all heads first
  const int h = bh % int(a.heads), b = bh / int(a.heads), kHead = int(a.heads + a.kvHead(h)), vHead = kHead + int(a.kvHeads);
  const int seq = int(a.seq), row = (tiles - 1 - tile) * WGS * kBoxRows;
  const auto tilesTo = [&](int end) { return ((end < seq ? end : seq) + kBoxRows - 1) / kBoxRows; };
  const int n = tilesTo(row + kBoxRows * (group + 1)), all = tilesTo(row + kBoxRows * WGS);
  const bool loads = threadIdx.x == (WGS - 1) * kGroupThreads;
  const auto load = [&](int j) {
    const uint32_t bar = full + 8 * (j % STAGES), to = ring + j % STAGES * kStage;
    arriveExpecting(bar, kStage);
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
      copyBox(to + i * kBoxBytes, map, bar, 64 * i, kHead, b, j * kBoxRows);
      copyBox(to + kTile + i * kBoxBytes, map, bar, 64 * i, vHead, b, j * kBoxRows);
    }
  };
  if (loads) {
    prefetchMap(map);
    prefetchMap(mapDy);
    initBarrier(own, 1);
    for (int i = 0; i < STAGES; i++) {
      initBarrier(full + 8 * i, 1);
      initBarrier(empty + 8 * i, 4 * WGS);
    }
    publishBarriers();
  }
  __syncthreads();
  if (loads) {
    arriveExpecting(own, 2 * WGS * kTile);
#pragma unroll
    for (int g = 0; g < WGS; g++)
#pragma unroll
      for (int i = 0; i < D / 64; i++) {
        copyBox(boxes + (2 * g * (D / 64) + i) * kBoxBytes, map, own, 64 * i, h, b, row + g * kBoxRows);
        copyBox(boxes + ((2 * g + 1) * (D / 64) + i) * kBoxBytes, mapDy, own, 64 * i, h, b, row + g * kBoxRows);
      }
    for (int j = 0; j < STAGES && j < all; j++) load(j);
  }
  const uint32_t mineQ = boxes + 2 * group * kTile, mineG = mineQ + kTile;
  const int t = row + kBoxRows * group + 16 * (warpOf() % 4) + laneOf() / 4;
  const float2 of[2] = {t < padded ? stats[int64_t(bh) * padded + t] : make_float2(INFINITY, 0.0f), t + 8 < padded ? stats[int64_t(bh) * padded + t + 8] : make_float2(INFINITY, 0.0f)};
  unsigned q[inRegisters ? D / 4 : 4], g[inRegisters ? D / 4 : 4];
  waitBarrier(own, 0);
  if constexpr (inRegisters) {
    loadFragments<D>(q, mineQ, kBoxBytes);
    loadFragments<D>(g, mineG, kBoxBytes);
  }
  float acc[D / 2], s[32], dp[32];
  unsigned ds[16];
#pragma unroll
  for (int i = 0; i < D / 2; i++) acc[i] = 0.0f;
  hold(acc);  // zeros in registers before the first product
  const float c = scale * kLog2e;
  const auto issueScores = [&](int j) {
    const uint32_t k = ring + j % STAGES * kStage;
    waitBarrier(full + 8 * (j % STAGES), j / STAGES & 1);
    beginProducts();
    if constexpr (inRegisters) {
      scores<D>(s, q, k, kBoxBytes);
      scores<D>(dp, g, k + kTile, kBoxBytes);
    } else {
      scores<D>(s, mineQ, kBoxBytes, k, kBoxBytes);
      scores<D>(dp, mineG, kBoxBytes, k + kTile, kBoxBytes);
    }
  };
  const auto gradients = [&](int j) {
    if (j == n - 1) {
      const int last = t - j * kBoxRows - 2 * (laneOf() % 4);
#pragma unroll
      for (int i = 0; i < 32; i++)
        if (i / 4 * 8 + i % 2 > last + i % 4 / 2 * 8) s[i] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < 32; i++) dp[i] = exp2Fast(fmaf(s[i], c, -of[i / 2 % 2].x)) * (dp[i] - of[i / 2 % 2].y);
  };
  const auto packed = [&] {
#pragma unroll
    for (int i = 0; i < 16; i++) ds[i] = packBf16(dp[2 * i], dp[2 * i + 1]);
    hold(ds);
  };
  int filled = STAGES;
  issueScores(0);
  commitProducts();
  waitProducts<0>();
  hold(s);
  hold(dp);
  gradients(0);
  packed();
  for (int j = 1; j < n; j++) {
    issueScores(j);
    commitProducts();
    accumulate(acc, ds, ring + (j - 1) % STAGES * kStage, kBoxBytes);
    commitProducts();
    if constexpr (overlaps) {
      waitProducts<1>();
      hold(s);
      hold(dp);
      gradients(j);
    }
    waitProducts<0>();
    hold(acc);
    hold(ds);
    if (laneOf() == 0) arrive(empty + 8 * ((j - 1) % STAGES));
    if (loads) refill<STAGES>(filled, j + 1, all, empty, load);
    if constexpr (!overlaps) {
      hold(s);
      hold(dp);
      gradients(j);
    }
    packed();
  }
  beginProducts();
  accumulate(acc, ds, ring + (n - 1) % STAGES * kStage, kBoxBytes);
  commitProducts();
  waitProducts<0>();
  hold(acc);
  storeRows(dqkv, int64_t(b) * a.width() + h * a.dims, a.batch * a.width(), t, seq, int(a.dims), acc, scale, scale);
#else
  __trap();  // built for another chip than it runs on
#endif
}

/// A stage has the statistics of its rows besides, 512 bytes of a kilobyte.
template <int D, int WGS, int STAGES> using KeyLayout = Layout<D, WGS, STAGES, 2 * WGS * kBoxRows * D * 2, 2 * kBoxRows * D * 2 + 1024>;

template <int D, int WGS, int STAGES, bool inRegisters, int BLOCKS, bool overlaps>
__global__ void __launch_bounds__(WGS* kGroupThreads, BLOCKS) wgmmaKeyGradientKernel(Half* dqkv, const float2* stats, int padded, const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap mapDy, AttentionShape a, float scale, int heads) {
#if FP8_HOPPER
  using L = KeyLayout<D, WGS, STAGES>;
  constexpr int kTile = kBoxRows * D * 2, kStage = 2 * kTile + 1024, kStatsBytes = kBoxRows * 8;
  const uint32_t base = sharedBase(), own = base, full = base + 8, empty = full + 8 * STAGES, boxes = base + L::kOwn, ring = base + L::kRing;
  const int group = warpgroup();
  const int tile = int(blockIdx.x) / heads, bg = int(blockIdx.x) % heads;  // the longest tiles of all heads first
  const int kv = bg % int(a.kvHeads), b = bg / int(a.kvHeads), share = int(a.heads / a.kvHeads), kHead = int(a.heads) + kv, vHead = kHead + int(a.kvHeads);
  // Where the block is, in shared memory besides: registers are short.
  struct Place {
    int kv, b, row, share;
  };
  const auto placed = [&] {
    Place at;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(at.kv), "=r"(at.b), "=r"(at.row), "=r"(at.share) : "r"(base + 512) : "memory");
    return at;
  };
  const int row = tile * WGS * kBoxRows;
  // Tiles of queries from the block's first key to the end, for each head that shares the keys.
  const int per = (int(a.seq) - row + kBoxRows - 1) / kBoxRows, all = per * share;
  const bool loads = threadIdx.x == 0;  // the first warpgroup has most tiles
  const auto load = [&](int j) {
    const uint32_t bar = full + 8 * (j % STAGES), to = ring + j % STAGES * kStage;
    const Place at = placed();
    const int h = at.kv * at.share + j / per, first = at.row + j % per * kBoxRows;
    arriveExpecting(bar, 2 * kTile + kStatsBytes);
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
      copyBox(to + i * kBoxBytes, map, bar, 64 * i, h, at.b, first);
      copyBox(to + kTile + i * kBoxBytes, mapDy, bar, 64 * i, h, at.b, first);
    }
    copyBytes(to + 2 * kTile, stats + (int64_t(at.b) * a.heads + h) * padded + first, kStatsBytes, bar);
  };
  if (loads) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(base + 512), "r"(kv), "r"(b), "r"(row), "r"(share) : "memory");
    prefetchMap(map);
    prefetchMap(mapDy);
    initBarrier(own, 1);
    for (int i = 0; i < STAGES; i++) {
      initBarrier(full + 8 * i, 1);
      initBarrier(empty + 8 * i, 4 * WGS);
    }
    publishBarriers();
  }
  __syncthreads();
  if (loads) {
    arriveExpecting(own, 2 * WGS * kTile);
#pragma unroll
    for (int g = 0; g < WGS; g++)
#pragma unroll
      for (int i = 0; i < D / 64; i++) {
        copyBox(boxes + (2 * g * (D / 64) + i) * kBoxBytes, map, own, 64 * i, kHead, b, row + g * kBoxRows);
        copyBox(boxes + ((2 * g + 1) * (D / 64) + i) * kBoxBytes, map, own, 64 * i, vHead, b, row + g * kBoxRows);
      }
    for (int j = 0; j < STAGES && j < all; j++) load(j);
  }
  const uint32_t mineK = boxes + 2 * group * kTile, mineV = mineK + kTile;
  const int laneRow = 16 * (warpOf() % 4) + laneOf() / 4;
  unsigned k[inRegisters ? D / 4 : 4], v[inRegisters ? D / 4 : 4];
  waitBarrier(own, 0);
  if constexpr (inRegisters) {
    loadFragments<D>(k, mineK, kBoxBytes);
    loadFragments<D>(v, mineV, kBoxBytes);
  }
  float dk[D / 2], dv[D / 2], s[32], dp[32];
  unsigned p[16], ds[16];
#pragma unroll
  for (int i = 0; i < D / 2; i++) dk[i] = dv[i] = 0.0f;
  hold(dk);
  hold(dv);
  const float c = scale * kLog2e;
  int within = -1;  // of tile j in its head
  const auto release = [&](int j) {
    if (laneOf() == 0) arrive(empty + 8 * (j % STAGES));
  };
  const auto issueScores = [&](int j) {
    const uint32_t q = ring + j % STAGES * kStage;
    beginProducts();
    if constexpr (inRegisters) {
      scores<D>(s, k, q, kBoxBytes);
      scores<D>(dp, v, q + kTile, kBoxBytes);
    } else {
      scores<D>(s, mineK, kBoxBytes, q, kBoxBytes);
      scores<D>(dp, mineV, kBoxBytes, q + kTile, kBoxBytes);
    }
  };
  // Waits for the next tile from j on that this warpgroup takes part in; gives the others back.
  const auto advance = [&](int j) {
    for (; j < all; j++) {
      waitBarrier(full + 8 * (j % STAGES), j / STAGES & 1);
      within = within + 1 < per ? within + 1 : 0;
      if (within >= group) break;
      release(j);  // its queries come before this warpgroup's keys
    }
    return j;
  };
  const auto gradients = [&](int j) {
    const uint32_t of = ring + j % STAGES * kStage + 2 * kTile + 2 * (laneOf() % 4) * 8;
    if (within == group) {
      const int first = laneRow - 2 * (laneOf() % 4);
#pragma unroll
      for (int i = 0; i < 32; i++)
        if (i / 4 * 8 + i % 2 < first + i % 4 / 2 * 8) s[i] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
      float l[2], d[2];
      asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(l[0]), "=f"(d[0]), "=f"(l[1]), "=f"(d[1]) : "r"(of + i * 16));
#pragma unroll
      for (int e = 0; e < 4; e++) {
        s[i + e] = exp2Fast(fmaf(s[i + e], c, -l[e % 2]));
        dp[i + e] = s[i + e] * (dp[i + e] - d[e % 2]);
      }
    }
  };
  const auto packed = [&] {
#pragma unroll
    for (int i = 0; i < 16; i++) {
      p[i] = packBf16(s[2 * i], s[2 * i + 1]);
      ds[i] = packBf16(dp[2 * i], dp[2 * i + 1]);
    }
    hold(p);
    hold(ds);
  };
  const auto addUp = [&](int j) {
    const uint32_t q = ring + j % STAGES * kStage;
    accumulate(dv, p, q + kTile, kBoxBytes);
    accumulate(dk, ds, q, kBoxBytes);
    commitProducts();
  };
  int filled = STAGES, j = advance(0);
  if (j < all) {  // else all its keys lie beyond the end
    issueScores(j);
    commitProducts();
    waitProducts<0>();
    hold(s);
    hold(dp);
    gradients(j);
    packed();
    for (int next; (next = advance(j + 1)) < all; j = next) {
      issueScores(next);
      commitProducts();
      addUp(j);
      if constexpr (overlaps) {
        waitProducts<1>();
        hold(s);
        hold(dp);
        gradients(next);
      }
      waitProducts<0>();
      hold(dk);
      hold(dv);
      hold(p);
      hold(ds);
      release(j);
      if (loads) refill<STAGES>(filled, next + 1, all, empty, load);
      if constexpr (!overlaps) {
        hold(s);
        hold(dp);
        gradients(next);
      }
      packed();
    }
    beginProducts();
    addUp(j);
  }
  waitProducts<0>();
  hold(dk);
  hold(dv);
  const Place to = placed();
  const int64_t first = to.b * a.width() + (a.heads + to.kv) * a.dims, stride = a.batch * a.width();
  const int t = to.row + group * kBoxRows + laneRow;
  storeRows(dqkv, first, stride, t, int(a.seq), int(a.dims), dk, scale, scale);
  storeRows(dqkv, first + a.kvHeads * a.dims, stride, t, int(a.seq), int(a.dims), dv, 1.0f, 1.0f);
#else
  __trap();  // built for another chip than it runs on
#endif
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// The driver's function, or null: the driver is loaded already, and the addon is not linked against it.
EncodeTiled encodeTiled() {
  static const EncodeTiled found = [] {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    return driver ? reinterpret_cast<EncodeTiled>(dlsym(driver, "cuTensorMapEncodeTiled")) : nullptr;
  }();
  return found;
}

/// Rows of `heads` heads in boxes of 64 x 64: coordinates column, head, batch, position.
bool mapOf(CUtensorMap* map, const Tensor& x, const AttentionShape& a, int64_t heads) {
  const cuuint64_t width = cuuint64_t(heads * a.dims), size[4] = {cuuint64_t(a.dims), cuuint64_t(heads), cuuint64_t(a.batch), cuuint64_t(a.seq)};
  const cuuint64_t strides[3] = {cuuint64_t(a.dims) * 2, width * 2, width * cuuint64_t(a.batch) * 2};
  const cuuint32_t box[4] = {kBoxColumns, 1, 1, kBoxRows}, steps[4] = {1, 1, 1, 1};
  const EncodeTiled encode = encodeTiled();
  return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x.data, size, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool isFor(const Tensor& qkv, const Tensor& other, const AttentionShape& a) {
  return device().major == 9 && qkv.dtype == DType::bf16 && a.dims > 32 && a.dims <= 128 && a.dims % 8 == 0 && isAligned(qkv) && isAligned(other) && a.batch * (a.heads + 2 * a.kvHeads) * ((a.seq + 63) / 64) < 1 << 30;
}

/// As launch(), with dynamic shared memory.
template <class... P, class... A> void launchShared(const char* name, void (*kernel)(P...), int64_t blocks, int threads, int bytes, A&&... args) {
  beforeLaunch();
  const Timed timed(timesLaunches() ? name : "");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  kernel<<<unsigned(blocks), threads, bytes, stream()>>>(P(args)...);
  check(cudaGetLastError(), name);
}

template <int D, int WGS, int KEYS, int STAGES, bool inRegisters, int BLOCKS, bool overlaps>
void forward(const Tensor& y, const Tensor& lse, const CUtensorMap& map, const AttentionShape& a, float scale) {
  const int64_t tiles = (a.seq + WGS * kBoxRows - 1) / (WGS * kBoxRows), heads = a.batch * a.heads;
  launchShared("attention_forward", wgmmaForwardKernel<D, WGS, KEYS, STAGES, inRegisters, BLOCKS, overlaps>, tiles * heads, WGS * kGroupThreads, ForwardLayout<D, WGS, KEYS, STAGES>::kBytes, ptr<Half>(y, "y"), ptr<float>(lse, "lse"),
               map, a, scale, int(heads), int(tiles));
}
template <int D, int WGS, int STAGES, bool inRegisters, int BLOCKS, bool overlaps>
void queryGradient(const Tensor& dqkv, const float2* stats, int padded, const CUtensorMap& map, const CUtensorMap& mapDy, const AttentionShape& a, float scale) {
  const int64_t tiles = (a.seq + WGS * kBoxRows - 1) / (WGS * kBoxRows), heads = a.batch * a.heads;
  launchShared("attention_backward", wgmmaQueryGradientKernel<D, WGS, STAGES, inRegisters, BLOCKS, overlaps>, tiles * heads, WGS * kGroupThreads, QueryLayout<D, WGS, STAGES>::kBytes, ptr<Half>(dqkv, "dqkv"), stats, padded, map, mapDy, a, scale, int(heads), int(tiles));
}
template <int D, int WGS, int STAGES, bool inRegisters, int BLOCKS, bool overlaps>
void keyGradient(const Tensor& dqkv, const float2* stats, int padded, const CUtensorMap& map, const CUtensorMap& mapDy, const AttentionShape& a, float scale) {
  const int64_t tiles = (a.seq + WGS * kBoxRows - 1) / (WGS * kBoxRows), heads = a.batch * a.kvHeads;
  launchShared("attention_backward", wgmmaKeyGradientKernel<D, WGS, STAGES, inRegisters, BLOCKS, overlaps>, tiles * heads, WGS * kGroupThreads, KeyLayout<D, WGS, STAGES>::kBytes, ptr<Half>(dqkv, "dqkv"), stats, padded, map, mapDy, a, scale, int(heads));
}

int paddedOf(const AttentionShape& a) { return int((a.seq + 63) / 64 * 64); }

void rowStats(float2* stats, const Tensor& dy, const Tensor& y, const Tensor& lse, const AttentionShape& a) {
  const int padded = paddedOf(a);
  launch("attention_backward", rowStatsKernel, dim3(unsigned((a.batch * a.heads * padded * 8 + 255) / 256)), dim3(256), stats, ptr<const Half>(dy, "dy"), ptr<const Half>(y, "y"), ptr<const float>(lse, "lse"), a, padded);
}

}  // namespace

#if !defined(ATTENTION_BENCH)
bool wgmmaAttentionForward(const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale) {
  CUtensorMap map;
  if (!isFor(qkv, y, a) || !mapOf(&map, qkv, a, a.heads + 2 * a.kvHeads)) return false;
  if (a.dims <= 64) forward<64, 2, 64, 4, true, 2, true>(y, lse, map, a, scale);
  else forward<128, 2, 128, 3, true, 1, true>(y, lse, map, a, scale);
  return true;
}

bool wgmmaAttentionBackward(const Tensor& dqkv, const Tensor& dy, const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale) {
  CUtensorMap map, mapDy;
  if (!isFor(qkv, dqkv, a) || !isAligned(dy) || !isAligned(y) || !mapOf(&map, qkv, a, a.heads + 2 * a.kvHeads) || !mapOf(&mapDy, dy, a, a.heads)) return false;
  const int padded = paddedOf(a);
  const Scratch scratch(size_t(a.batch * a.heads) * size_t(padded) * sizeof(float2));
  float2* const stats = scratch.as<float2>("row statistics");
  rowStats(stats, dy, y, lse, a);
  if (a.dims <= 64) {
    queryGradient<64, 1, 4, true, 2, true>(dqkv, stats, padded, map, mapDy, a, scale);
    keyGradient<64, 1, 4, true, 2, true>(dqkv, stats, padded, map, mapDy, a, scale);
  } else {
    queryGradient<128, 2, 4, true, 1, true>(dqkv, stats, padded, map, mapDy, a, scale);
    keyGradient<128, 2, 4, false, 1, false>(dqkv, stats, padded, map, mapDy, a, scale);
  }
  return true;
}
#endif

}  // namespace fp8lm

#endif
