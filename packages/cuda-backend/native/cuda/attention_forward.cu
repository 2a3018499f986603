// Causal attention in bf16 on Hopper (sm_90a), forward: the algorithm of ../attention_mma.cu with the products of whole warpgroups.
//
// A warpgroup has 64 queries of one head and passes over tiles of keys and values that it shares with the block's others (see
// attention_hopper.h). The scores of the next tile are computed before the sum over the values of this one, so that the tensor
// cores are busy while probabilities are made; a second block or warpgroup on the multiprocessor fills what is left.
//
// Accuracy: operands are bf16, and so are the probabilities as an operand of the second product; sums, softmax and lse are
// float32, with 2^x of the special function unit (2 ulp). y is rounded once. Same inputs, same bits.
#include <cmath>

#include "attention_hopper.h"

namespace fp8lm {

namespace {

using namespace hopper;

template <int D, int WGS, int KEYS, int STAGES> using ForwardLayout = Layout<STAGES, WGS * kBoxRows * D * 2, 2 * KEYS * D * 2>;

/// Blocks of WGS warpgroups, tiles of KEYS keys; `resident` blocks a multiprocessor. Queries in registers.
template <int D, int WGS, int KEYS, int STAGES, int resident>
__global__ void __launch_bounds__(WGS* kGroupThreads, resident) wgmmaForwardKernel(Half* y, float* lse, const __grid_constant__ CUtensorMap map, AttentionShape a, float scale, int heads, int tiles) {
  beginKernel();
#if FP8_HOPPER
  using L = ForwardLayout<D, WGS, KEYS, STAGES>;
  constexpr int kHalf = KEYS * 128, kTile = KEYS * D * 2, kStage = 2 * kTile;
  const uint32_t base = sharedAddress(dynamicShared), boxes = base + L::kOwn, places = base + L::kRing;
  const Ring<STAGES> ring{base};
  const int group = warpgroup(), seq = int(a.seq);
  const int tile = int(blockIdx.x) / heads, bh = int(blockIdx.x) % heads, row = (tiles - 1 - tile) * WGS * kBoxRows;  // the longest of all heads first
  const auto tilesTo = [&](int end) { return ((end < seq ? end : seq) + KEYS - 1) / KEYS; };
  const auto placeOf = [&](int j) { return places + j % STAGES * kStage; };
  const int n = tilesTo(row + kBoxRows * (group + 1)), all = tilesTo(row + kBoxRows * WGS);
  const int h = bh % int(a.heads), b = bh / int(a.heads), kHead = int(a.heads) + h / (int(a.heads) / int(a.kvHeads)), vHead = kHead + int(a.kvHeads);
  const bool loads = warpIndex() == 4 * (WGS - 1);  // one lane of this warp
  const auto load = [&](int j) {
    const uint32_t bar = ring.full(j), to = placeOf(j);
    arriveExpecting(bar, kStage);
#pragma unroll
    for (int i = 0; i < D / 64; i++)
#pragma unroll
      for (int r = 0; r < KEYS / 64; r++) {
        copyBox(to + i * kHalf + r * kBoxBytes, map, bar, 64 * i, kHead, b, j * KEYS + 64 * r);
        copyBox(to + kTile + i * kHalf + r * kBoxBytes, map, bar, 64 * i, vHead, b, j * KEYS + 64 * r);
      }
  };
  if (loads && isElected()) {
    prefetchMap(map);
    ring.init(4 * WGS);
  }
  __syncthreads();
  if (loads && isElected()) {
    arriveExpecting(ring.own(), WGS * kBoxRows * D * 2);
#pragma unroll
    for (int w = 0; w < WGS; w++)
#pragma unroll
      for (int i = 0; i < D / 64; i++) copyBox(boxes + (w * (D / 64) + i) * kBoxBytes, map, ring.own(), 64 * i, h, b, row + w * kBoxRows);
    ring.fill(all, load);
  }
  unsigned q[D / 4], p[KEYS / 4];
  float acc[D / 2], s[KEYS / 2], top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, shrink[2];
  waitBarrier(ring.own(), 0);
  loadFragments<D>(q, boxes + group * (D / 64) * kBoxBytes, kBoxBytes);
  clear(acc);
  const float c = scale * kLog2e;
  const int first = row + kBoxRows * group, t = first + rowOfLane();
  const auto issueScores = [&](int j) {
    ring.wait(j);
    beginProducts();
    scores<D>(s, q, placeOf(j), kHalf);
    commitProducts();
  };
  // Scores of tile j to probabilities, in place.
  const auto softmax = [&](int j) {
    hold(s);
    if (j == n - 1) {  // the only tile with keys after a query
      const int last = t - j * KEYS - 2 * (laneOf() % 4);
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
      shrink[r] = fastExp2((top[r] - now) * c);
      top[r] = now;
      float part[2] = {};
#pragma unroll
      for (int i = 2 * r; i < KEYS / 2; i += 4) {
        s[i] = fastExp2(fmaf(s[i], c, shift));
        s[i + 1] = fastExp2(fmaf(s[i + 1], c, shift));
        part[0] += s[i];
        part[1] += s[i + 1];
      }
      sum[r] = fmaf(sum[r], shrink[r], part[0] + part[1]);
    }
    hold(s);
  };
  const auto pack = [&] {
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) p[i] = bf16Pair(s[2 * i], s[2 * i + 1]);
    hold(p);
  };
  issueScores(0);
  waitProducts<0>();
  softmax(0);
  pack();
  for (int j = 1; j < n; j++) {
    issueScores(j);
    accumulate(acc, p, placeOf(j - 1) + kTile, kHalf);
    commitProducts();
    if (loads && isElected()) ring.refill(j + 1, all, load);
    waitProducts<1>();
    softmax(j);  // while the tensor cores add up the tile before
    ring.fence();
    waitProducts<0>();
    hold(acc);
    hold(p);
    ring.release(j - 1);
#pragma unroll
    for (int i = 0; i < D / 2; i++) acc[i] *= shrink[i / 2 % 2];
    hold(acc);
    pack();
  }
  beginProducts();
  accumulate(acc, p, placeOf(n - 1) + kTile, kHalf);
  commitProducts();
  waitProducts<0>();
  hold(acc);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    sum[r] = quadSum(sum[r]);
    if (laneOf() % 4 == 0 && t + 8 * r < seq) lse[int64_t(bh) * seq + t + 8 * r] = fmaf(top[r], scale, logf(sum[r]));
  }
  storeRows(y + bh * a.dims, heads * a.dims, t, seq, int(a.dims), acc, 1.0f / sum[0], 1.0f / sum[1]);
#else
  __trap();  // built for another chip than it runs on
#endif
}

template <int D, int WGS, int KEYS, int STAGES, int resident> void forward(const Tensor& y, const Tensor& lse, const CUtensorMap& map, const AttentionShape& a, float scale) {
  const int64_t tiles = (a.seq + WGS * kBoxRows - 1) / (WGS * kBoxRows), heads = a.batch * a.heads;
  launchShared("attention_forward", wgmmaForwardKernel<D, WGS, KEYS, STAGES, resident>, dim3(unsigned(tiles * heads)), dim3(WGS * kGroupThreads), ForwardLayout<D, WGS, KEYS, STAGES>::kBytes, ptr<Half>(y, "y"), ptr<float>(lse, "lse"), map, a, scale,
               int(heads), int(tiles));
}

}  // namespace

#if !defined(ATTENTION_BENCH)
bool wgmmaAttentionForward(const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale) {
  CUtensorMap map;
  if (!isFor(qkv, a) || !isAligned(y) || !mapOf(&map, qkv, a, a.heads + 2 * a.kvHeads)) return false;
  if (a.dims <= 64) forward<64, 2, 64, 4, 2>(y, lse, map, a, scale);
  else forward<128, 2, 128, 3, 1>(y, lse, map, a, scale);
  return true;
}
#endif

}  // namespace fp8lm
