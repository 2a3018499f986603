// Causal attention in bf16 on Hopper (sm_90a), backward: two kernels, one by queries and one by keys. The scores are computed
// twice, but each result has one writer: no float atomics, no order among blocks, the same bits every time. Counted in products
// of tiles that is 7 where one kernel needs 5 and adds up dq in memory besides.
//
//   query gradient rows are queries: s = q k^T, p = e^(s - lse), dp = dy v^T, ds = p (dp - dy . y), dq += ds k
//   key gradient   rows are keys, of all heads that share them: s^T = k q^T, dv += p^T dy, dp^T = v dy^T, dk += ds^T q
//
// As forward, a warpgroup has 64 rows, and the scores of the next tile are computed before the sums of this one. Accuracy:
// operands are bf16, p and ds too as operands of the second products; everything else is float32, 2^x within 2 ulp.
#include <cmath>

#include "attention_hopper.h"

namespace fp8lm {

namespace {

using namespace hopper;

constexpr int kRowsAtOnce = 4;

/// lse * log2(e) and dy . y of each row, side by side, rows of a head padded to `padded`: there the first is +inf, so that p is 0.
/// Eight lanes a row, pieces of 16 bytes; a lane has several rows under way.
__global__ void __launch_bounds__(256, 4) rowStatsKernel(float2* stats, const Half* dy, const Half* y, const float* lse, AttentionShape a, int padded) {
  beginKernel();
  // Consecutive rows of dy: all heads of a batch, then the next batch, then the next position.
  const int heads = int(a.batch * a.heads), part = int(threadIdx.x) % 8, dims = int(a.dims);
  const int64_t n = int64_t(heads) * padded, first = int64_t(blockIdx.x) * 32 * kRowsAtOnce + threadIdx.x / 8;
  float dot[kRowsAtOnce] = {};
  for (int d = 8 * part; d < dims; d += 64) {
    Vec<Half> u[kRowsAtOnce] = {}, v[kRowsAtOnce] = {};
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; r++) {
      const int64_t i = first + 32 * r;
      if (i >= int64_t(heads) * a.seq) continue;
      u[r] = loadVec(dy, i * dims + d);
      v[r] = loadVec(y, i * dims + d);
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; r++)
#pragma unroll
      for (int k = 0; k < 8; k++) dot[r] = fmaf(decodeBF16(u[r].v[k]), decodeBF16(v[r].v[k]), dot[r]);
  }
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; r++) {
    for (int x = 4; x > 0; x /= 2) dot[r] += __shfl_xor_sync(kAllLanes, dot[r], x);
    const int64_t i = first + 32 * r;
    if (part != r || i >= n) continue;
    const int head = int(i % heads), t = int(i / heads);
    stats[int64_t(head) * padded + t] = make_float2(t < a.seq ? lse[head * a.seq + t] * kLog2e : INFINITY, dot[r]);
  }
}

template <int D, int WGS, int STAGES> using QueryLayout = Layout<STAGES, 2 * WGS * kBoxRows * D * 2, 2 * kBoxRows * D * 2>;

/// Blocks of WGS warpgroups; `resident` blocks a multiprocessor. Queries and their dy in registers.
template <int D, int WGS, int STAGES, int resident>
__global__ void __launch_bounds__(WGS* kGroupThreads, resident)
    wgmmaQueryGradientKernel(Half* dqkv, const float2* stats, int padded, const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap mapDy, AttentionShape a, float scale, int heads, int tiles) {
  beginKernel();
#if FP8_HOPPER
  using L = QueryLayout<D, WGS, STAGES>;
  constexpr int kTile = kBoxRows * D * 2, kStage = 2 * kTile;
  const uint32_t base = sharedAddress(dynamicShared), boxes = base + L::kOwn, places = base + L::kRing;
  const Ring<STAGES> ring{base};
  const int group = warpgroup(), seq = int(a.seq);
  const int tile = int(blockIdx.x) / heads, bh = int(blockIdx.x) % heads, row = (tiles - 1 - tile) * WGS * kBoxRows;  // the longest of all heads first
  const auto tilesTo = [&](int end) { return ((end < seq ? end : seq) + kBoxRows - 1) / kBoxRows; };
  const auto placeOf = [&](int j) { return places + j % STAGES * kStage; };
  const int n = tilesTo(row + kBoxRows * (group + 1)), all = tilesTo(row + kBoxRows * WGS);
  const int h = bh % int(a.heads), b = bh / int(a.heads), kHead = int(a.heads) + h / (int(a.heads) / int(a.kvHeads)), vHead = kHead + int(a.kvHeads);
  const bool loads = warpIndex() == 4 * (WGS - 1);  // one lane of this warp
  const auto load = [&](int j) {
    const uint32_t bar = ring.full(j), to = placeOf(j);
    arriveExpecting(bar, kStage);
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
      copyBox(to + i * kBoxBytes, map, bar, 64 * i, kHead, b, j * kBoxRows);
      copyBox(to + kTile + i * kBoxBytes, map, bar, 64 * i, vHead, b, j * kBoxRows);
    }
  };
  if (loads && isElected()) {
    prefetchMap(map);
    prefetchMap(mapDy);
    ring.init(4 * WGS);
  }
  __syncthreads();
  if (loads && isElected()) {
    arriveExpecting(ring.own(), 2 * WGS * kTile);
#pragma unroll
    for (int w = 0; w < WGS; w++)
#pragma unroll
      for (int i = 0; i < D / 64; i++) {
        copyBox(boxes + 2 * w * kTile + i * kBoxBytes, map, ring.own(), 64 * i, h, b, row + w * kBoxRows);
        copyBox(boxes + (2 * w + 1) * kTile + i * kBoxBytes, mapDy, ring.own(), 64 * i, h, b, row + w * kBoxRows);
      }
    ring.fill(all, load);
  }
  const int t = row + kBoxRows * group + rowOfLane();
  const float2* const mine = stats + int64_t(bh) * padded;
  const float2 of[2] = {t < padded ? mine[t] : make_float2(INFINITY, 0.0f), t + 8 < padded ? mine[t + 8] : make_float2(INFINITY, 0.0f)};
  unsigned q[D / 4], dy[D / 4], ds[16];
  float acc[D / 2], s[32], dp[32];
  waitBarrier(ring.own(), 0);
  loadFragments<D>(q, boxes + 2 * group * kTile, kBoxBytes);
  loadFragments<D>(dy, boxes + (2 * group + 1) * kTile, kBoxBytes);
  clear(acc);
  const float c = scale * kLog2e;
  const auto issueScores = [&](int j) {
    ring.wait(j);
    beginProducts();
    scores<D>(s, q, placeOf(j), kBoxBytes);
    scores<D>(dp, dy, placeOf(j) + kTile, kBoxBytes);
    commitProducts();
  };
  // ds in place of dp.
  const auto gradients = [&](int j) {
    hold(s);
    hold(dp);
    if (j == n - 1) {  // the only tile with keys after a query
      const int last = t - j * kBoxRows - 2 * (laneOf() % 4);
#pragma unroll
      for (int i = 0; i < 32; i++)
        if (i / 4 * 8 + i % 2 > last + i % 4 / 2 * 8) s[i] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < 32; i++) dp[i] = fastExp2(fmaf(s[i], c, -of[i / 2 % 2].x)) * (dp[i] - of[i / 2 % 2].y);
    hold(dp);
  };
  const auto pack = [&] {
#pragma unroll
    for (int i = 0; i < 16; i++) ds[i] = bf16Pair(dp[2 * i], dp[2 * i + 1]);
    hold(ds);
  };
  issueScores(0);
  waitProducts<0>();
  gradients(0);
  pack();
  for (int j = 1; j < n; j++) {
    issueScores(j);
    accumulate(acc, ds, placeOf(j - 1), kBoxBytes);
    commitProducts();
    if (loads && isElected()) ring.refill(j + 1, all, load);
    waitProducts<1>();
    gradients(j);  // while the tensor cores add up the tile before
    ring.fence();
    waitProducts<0>();
    hold(acc);
    hold(ds);
    ring.release(j - 1);
    pack();
  }
  beginProducts();
  accumulate(acc, ds, placeOf(n - 1), kBoxBytes);
  commitProducts();
  waitProducts<0>();
  hold(acc);
  storeRows(dqkv + b * a.width() + h * a.dims, a.batch * a.width(), t, seq, int(a.dims), acc, scale, scale);
#else
  __trap();  // built for another chip than it runs on
#endif
}

/// A place of the ring has the statistics of its rows besides, 512 bytes of a kilobyte.
template <int D, int WGS, int STAGES> using KeyLayout = Layout<STAGES, 2 * WGS * kBoxRows * D * 2, 2 * kBoxRows * D * 2 + 1024>;

/// Up to 64 dims keys and values are in registers, and the arithmetic of a tile runs beside the sums of the tile before; beyond,
/// dk and dv take those registers, and only the other warpgroup's products run beside it (measured: no slower).
template <int D, int WGS, int STAGES, int resident>
__global__ void __launch_bounds__(WGS* kGroupThreads, resident)
    wgmmaKeyGradientKernel(Half* dqkv, const float2* stats, int padded, const __grid_constant__ CUtensorMap map, const __grid_constant__ CUtensorMap mapDy, AttentionShape a, float scale, int heads) {
  beginKernel();
#if FP8_HOPPER
  using L = KeyLayout<D, WGS, STAGES>;
  constexpr bool kRoomy = D <= 64;
  constexpr int kTile = kBoxRows * D * 2, kStage = 2 * kTile + 1024, kStatsBytes = kBoxRows * 8;
  const uint32_t base = sharedAddress(dynamicShared), boxes = base + L::kOwn, places = base + L::kRing;
  const Ring<STAGES> ring{base};
  const int group = warpgroup();
  // Where the block is, in shared memory besides: registers are short.
  struct Place {
    int kv, b, row, share;
  };
  const auto placed = [&] {
    Place at;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(at.kv), "=r"(at.b), "=r"(at.row), "=r"(at.share) : "r"(base + L::kState) : "memory");
    return at;
  };
  const int tile = int(blockIdx.x) / heads, bg = int(blockIdx.x) % heads, row = tile * WGS * kBoxRows;  // the longest of all heads first
  const int kv = bg % int(a.kvHeads), b = bg / int(a.kvHeads), share = int(a.heads) / int(a.kvHeads), kHead = int(a.heads) + kv, vHead = kHead + int(a.kvHeads);
  const auto placeOf = [&](int j) { return places + j % STAGES * kStage; };
  // Tiles of queries from the block's first key to the end, for each head that shares the keys.
  const int per = (int(a.seq) - row + kBoxRows - 1) / kBoxRows, all = per * share;
  const bool loads = warpIndex() == 0;  // one lane of this warp; the first warpgroup has most tiles
  const auto load = [&](int j) {
    const uint32_t bar = ring.full(j), to = placeOf(j);
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
  if (loads && isElected()) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(base + L::kState), "r"(kv), "r"(b), "r"(row), "r"(share) : "memory");
    prefetchMap(map);
    prefetchMap(mapDy);
    ring.init(4 * WGS);
  }
  __syncthreads();
  if (loads && isElected()) {
    arriveExpecting(ring.own(), 2 * WGS * kTile);
#pragma unroll
    for (int w = 0; w < WGS; w++)
#pragma unroll
      for (int i = 0; i < D / 64; i++) {
        copyBox(boxes + 2 * w * kTile + i * kBoxBytes, map, ring.own(), 64 * i, kHead, b, row + w * kBoxRows);
        copyBox(boxes + (2 * w + 1) * kTile + i * kBoxBytes, map, ring.own(), 64 * i, vHead, b, row + w * kBoxRows);
      }
    ring.fill(all, load);
  }
  const uint32_t mineK = boxes + 2 * group * kTile, mineV = mineK + kTile;
  unsigned k[kRoomy ? D / 4 : 4], v[kRoomy ? D / 4 : 4], p[16], ds[16];
  float dk[D / 2], dv[D / 2], s[32], dp[32];
  const int laneRow = rowOfLane();
  waitBarrier(ring.own(), 0);
  if constexpr (kRoomy) {
    loadFragments<D>(k, mineK, kBoxBytes);
    loadFragments<D>(v, mineV, kBoxBytes);
  }
  clear(dk);
  clear(dv);
  const float c = scale * kLog2e;
  int within = -1;  // of tile j in its head
  // Waits for the next tile from j on that this warpgroup takes part in; gives the others back.
  const auto advance = [&](int j) {
    for (; j < all; j++) {
      ring.wait(j);
      within = within + 1 < per ? within + 1 : 0;
      if (within >= group) break;
      ring.release(j);  // its queries come before this warpgroup's keys
    }
    return j;
  };
  const auto issueScores = [&](int j) {
    beginProducts();
    if constexpr (kRoomy) {
      scores<D>(s, k, placeOf(j), kBoxBytes);
      scores<D>(dp, v, placeOf(j) + kTile, kBoxBytes);
    } else {
      scores<D>(s, mineK, kBoxBytes, placeOf(j), kBoxBytes);
      scores<D>(dp, mineV, kBoxBytes, placeOf(j) + kTile, kBoxBytes);
    }
    commitProducts();
  };
  // p in place of s, ds in place of dp.
  const auto gradients = [&](int j) {
    hold(s);
    hold(dp);
    const uint32_t of = placeOf(j) + 2 * kTile + 2 * (laneOf() % 4) * 8;
    if (within == group) {  // the only tile of a head with queries before a key
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
        s[i + e] = fastExp2(fmaf(s[i + e], c, -l[e % 2]));
        dp[i + e] = s[i + e] * (dp[i + e] - d[e % 2]);
      }
    }
  };
  const auto pack = [&] {
#pragma unroll
    for (int i = 0; i < 16; i++) {
      p[i] = bf16Pair(s[2 * i], s[2 * i + 1]);
      ds[i] = bf16Pair(dp[2 * i], dp[2 * i + 1]);
    }
    hold(p);
    hold(ds);
  };
  const auto addUp = [&](int j) {
    accumulate(dv, p, placeOf(j) + kTile, kBoxBytes);
    accumulate(dk, ds, placeOf(j), kBoxBytes);
    commitProducts();
  };
  int j = advance(0);
  if (j < all) {  // else all its keys lie beyond the end
    issueScores(j);
    waitProducts<0>();
    gradients(j);
    pack();
    for (int next; (next = advance(j + 1)) < all; j = next) {
      issueScores(next);
      addUp(j);
      if (loads && isElected()) ring.refill(next + 1, all, load);
      if constexpr (kRoomy) {
        waitProducts<1>();
        gradients(next);
        hold(s);
        hold(dp);
        ring.fence();
      }
      waitProducts<0>();
      hold(dk);
      hold(dv);
      hold(p);
      hold(ds);
      ring.release(j);
      if constexpr (!kRoomy) gradients(next);
      pack();
    }
    beginProducts();
    addUp(j);
  }
  waitProducts<0>();
  hold(dk);
  hold(dv);
  const Place at = placed();
  Half* const to = dqkv + at.b * a.width() + (a.heads + at.kv) * a.dims;
  const int t = at.row + group * kBoxRows + laneRow;
  storeRows(to, a.batch * a.width(), t, int(a.seq), int(a.dims), dk, scale, scale);
  storeRows(to + a.kvHeads * a.dims, a.batch * a.width(), t, int(a.seq), int(a.dims), dv, 1.0f, 1.0f);
#else
  __trap();  // built for another chip than it runs on
#endif
}

template <int D, int WGS, int STAGES, int resident> void queryGradient(const Tensor& dqkv, const float2* stats, int padded, const CUtensorMap& map, const CUtensorMap& mapDy, const AttentionShape& a, float scale) {
  const int64_t tiles = (a.seq + WGS * kBoxRows - 1) / (WGS * kBoxRows), heads = a.batch * a.heads;
  launchShared("attention_backward", wgmmaQueryGradientKernel<D, WGS, STAGES, resident>, dim3(unsigned(tiles * heads)), dim3(WGS * kGroupThreads), QueryLayout<D, WGS, STAGES>::kBytes, ptr<Half>(dqkv, "dqkv"), stats, padded, map, mapDy, a, scale,
               int(heads), int(tiles));
}
template <int D, int WGS, int STAGES, int resident> void keyGradient(const Tensor& dqkv, const float2* stats, int padded, const CUtensorMap& map, const CUtensorMap& mapDy, const AttentionShape& a, float scale) {
  const int64_t tiles = (a.seq + WGS * kBoxRows - 1) / (WGS * kBoxRows), heads = a.batch * a.kvHeads;
  launchShared("attention_backward", wgmmaKeyGradientKernel<D, WGS, STAGES, resident>, dim3(unsigned(tiles * heads)), dim3(WGS * kGroupThreads), KeyLayout<D, WGS, STAGES>::kBytes, ptr<Half>(dqkv, "dqkv"), stats, padded, map, mapDy, a, scale, int(heads));
}

int paddedOf(const AttentionShape& a) { return int((a.seq + kBoxRows - 1) / kBoxRows * kBoxRows); }

void rowStats(float2* stats, const Tensor& dy, const Tensor& y, const Tensor& lse, const AttentionShape& a) {
  const int padded = paddedOf(a), perBlock = 32 * kRowsAtOnce;
  launch("attention_backward", rowStatsKernel, dim3(unsigned((a.batch * a.heads * padded + perBlock - 1) / perBlock)), dim3(256), stats, ptr<const Half>(dy, "dy"), ptr<const Half>(y, "y"), ptr<const float>(lse, "lse"), a, padded);
}

}  // namespace

#if !defined(ATTENTION_BENCH)
bool wgmmaAttentionBackward(const Tensor& dqkv, const Tensor& dy, const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale) {
  CUtensorMap map, mapDy;
  if (!isFor(qkv, a) || !isAligned(dqkv) || !isAligned(dy) || !isAligned(y) || !mapOf(&map, qkv, a, a.heads + 2 * a.kvHeads) || !mapOf(&mapDy, dy, a, a.heads)) return false;
  const int padded = paddedOf(a);
  const Scratch scratch(size_t(a.batch * a.heads) * size_t(padded) * sizeof(float2));
  float2* const stats = scratch.as<float2>("row statistics");
  rowStats(stats, dy, y, lse, a);
  if (a.dims <= 64) {
    queryGradient<64, 1, 4, 2>(dqkv, stats, padded, map, mapDy, a, scale);
    keyGradient<64, 1, 4, 2>(dqkv, stats, padded, map, mapDy, a, scale);
  } else {
    queryGradient<128, 2, 4, 1>(dqkv, stats, padded, map, mapDy, a, scale);
    keyGradient<128, 2, 4, 1>(dqkv, stats, padded, map, mapDy, a, scale);
  }
  return true;
}
#endif

}  // namespace fp8lm
