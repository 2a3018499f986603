// Layer norm and RMS norm, forward and backward, each input read once (rows.h). FP8 outputs come straight from float32: norm
// and cast are one kernel, with a pass that only measures before it where the scale is just in time. The gradients of weight
// and bias are summed by the blocks that compute dx, each over its rows, and added up in a fixed order (columns.h).
//
// From bf16 to FP8, forward, newer chips have a kernel of their own: norms_fp8.cu.
//
// Rows that are no whole vectors, or longer than a team holds: a warp has a row and reads it element by element.
//
// One file, though long: both ways of reading a row share what a norm is, forward and backward.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "columns.h"
#include "norms.h"

namespace fp8lm {

namespace {

constexpr int kRowsPerBlock = 4, kNormThreads = kRowsPerBlock * kWarp;

inline dim3 rowBlocks(int64_t rows) { return dim3(blocksFor(rows, kRowsPerBlock)); }

struct RowStats {
  float mean, inv;
};

template <bool rms, DType X> __device__ __forceinline__ RowStats rowStats(const Input<X>& x, int64_t row, int64_t dim, float eps) {
  RowStats s{0.0f, 0.0f};
  if constexpr (!rms) {
    float sum = 0.0f;
    for (int64_t c = laneOf(); c < dim; c += kWarp) sum += x.one(row * dim + c, 1.0f);
    s.mean = math::div(warpSum(sum), float(dim));
  }
  float square = 0.0f;
  for (int64_t c = laneOf(); c < dim; c += kWarp) {
    const float d = x.one(row * dim + c, 1.0f) - s.mean;
    square = math::mulAdd(d, d, square);
  }
  s.inv = math::div(1.0f, math::sqrt(math::add(math::div(warpSum(square), float(dim)), eps)));
  return s;
}

/// What a forward kernel has seen goes to the words, and from the last block to the scale block. All threads call it.
template <bool measure, bool scaled> __device__ __forceinline__ void finishNorm(const ScaleJob& job, const Seen& seen, float scale) {
  if constexpr (measure) {
    const unsigned largest = blockReduce<Reduce::max>(seen.largest);
    if (threadIdx.x == 0 && largest) atomicMaxAt(job.words, kMeasured + job.slot, largest);
  } else if constexpr (scaled) {
    if (lastToReport(job, seen)) finish(job, scale);
  }
}

/// Vectors of a row that a thread holds, and the warps that a team may have so that they stay in registers.
template <DType X> constexpr int kForwardVectors = X == DType::f32 ? 2 : 4;
template <DType X> constexpr int kRowsTogether = X == DType::f32 ? 1 : 2;
template <DType DY, DType X, DType R> constexpr int kBackwardVectors = DY == DType::f32 || X == DType::f32 || R == DType::f32 ? 1 : 2;
constexpr int kForwardWarps = 12, kBackwardWarps = 16;
static_assert(kForwardWarps <= kMostTeamWarps && kBackwardWarps <= kMostTeamWarps, "the halves of teamSums hold a block's warps");

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
constexpr bool kFewRegisters = true;  // sm_80's code needs a register more, and would spill with a bias
#else
constexpr bool kFewRegisters = false;
#endif

/// One pass over the rows: statistics, and the values measured or stored.
template <bool rms, bool biased, bool measure, DType Y, DType X>
__global__ void __launch_bounds__(kForwardWarps * kWarp, 2) normKernel(Output<Y> y, Ptr<float> stats, Input<X> x, Ptr<const float> weight, Ptr<const float> bias, ScaleJob job, int rows, int dim, float eps, RowPlan plan) {
  beginKernel();
  constexpr int V = kForwardVectors<X>, R = kRowsTogether<X>;
  constexpr bool lean = biased && kFewRegisters;
  FP8_SHARED(float, parts, 2 * R * kMostTeamWarps);
  if constexpr (measure) {
    if (!needsMeasure(job)) return;
  }
  const Team team(plan);
  const int step = int(gridDim.x) * team.teams * R;
  int first = int(blockIdx.x) * team.teams * R;
  float scale = 1.0f;
  Seen seen;
  if constexpr (isScaled<Y> && !measure) scale = chooseScale(job);
  int half = 0;
  for (; first < rows; first += step) {
    const int r = first + team.index * R;
    if constexpr (!rms) half = 0;  // two sums a round
    RowVectors<X, V> row[R];
    float mean[R] = {}, inv[R] = {};  // inv: first the sums of squares
#pragma unroll
    for (int j = 0; j < R; j++) {
      row[j].fetch(x, team, r + j, rows, dim);
    }
    if constexpr (!rms) {
#pragma unroll
      for (int j = 0; j < R; j++) {
#pragma unroll
        for (int q = 0; q < V; q++) {
          float v[kWide];
          unpack(row[j].vector[q], v);
#pragma unroll
          for (int k = 0; k < kWide; k++) mean[j] += v[k];
        }
      }
      teamSums<lean>(team, parts, half, mean);
#pragma unroll
      for (int j = 0; j < R; j++) mean[j] = math::mul(mean[j], plan.share);
    }
#pragma unroll
    for (int j = 0; j < R; j++) {
#pragma unroll
      for (int q = 0; q < V; q++) {
        if (team.column(q) >= dim) continue;
        float v[kWide];
        unpackAnew(row[j].vector[q], uint32_t(plan.warps) >> 16, v);
#pragma unroll
        for (int k = 0; k < kWide; k++) {
          const float d = rms ? v[k] : math::sub(v[k], mean[j]);
          inv[j] = math::mulAdd(d, d, inv[j]);
        }
      }
    }
    if constexpr (!rms) half = kMostTeamWarps * R;  // known when compiled, as is the other
    teamSums<lean>(team, parts, half, inv);
#pragma unroll
    for (int j = 0; j < R; j++) inv[j] = nearlyRecip(nearlySqrt(math::mulAdd(inv[j], plan.share, eps)));
    if constexpr (!measure) {
#pragma unroll
      for (int j = 0; j < R; j++) {
        if (team.thread > 0 || r + j >= rows) continue;
        if constexpr (rms) stats[r + j] = inv[j];
        else stats[2 * (r + j)] = mean[j], stats[2 * (r + j) + 1] = inv[j];
      }
    }
    // Weight and bias are read once for all of the rows: they are most of what the first-level cache gives.
#pragma unroll
    for (int q = 0; q < V; q++) {
      const int c = team.column(q);
      if (c >= dim) continue;
      float w[kWide], b[kWide];
      loadWide(weight, c, w);
      if constexpr (biased) loadWide(bias, c, b);
#pragma unroll
      for (int j = 0; j < R; j++) {
        if (r + j >= rows) continue;
        float v[kWide];
        unpackAnew(row[j].vector[q], uint32_t(plan.warps) >> 17, v);
#pragma unroll
        for (int k = 0; k < kWide; k++) {
          v[k] = math::mul(rms ? v[k] : math::sub(v[k], mean[j]), inv[j]);
          v[k] = biased ? math::mulAdd(v[k], w[k], b[k]) : math::mul(v[k], w[k]);
        }
        if constexpr (measure) {
          float largest = 0.0f;
#pragma unroll
          for (int k = 0; k < kWide; k++) largest = maxMagnitude(largest, v[k]);
          if (magnitude(largest) > seen.largest) seen.largest = magnitude(largest);
        } else if constexpr (isScaled<Y>) {
          float t[kWide];
#pragma unroll
          for (int k = 0; k < kWide; k++) t[k] = math::mul(v[k], scale);
          seen.add(v, t, scale, job.max);
          storeWords(y.data + int64_t(r + j) * dim, c, pack<Y>(t).w);
        } else {
          storeWords(y.data + int64_t(r + j) * dim, c, pack<Y>(v).w);
        }
      }
    }
  }
  finishNorm<measure, isScaled<Y>>(job, seen, scale);
}

constexpr int kSharedTeamThreads = 256;  // of a block with several teams in the backward pass

// With n = (x - mean) inv and g = dy weight: dx = residual + inv (g - mean(g) - n mean(g n)); rms has no mean(g). The block's
// sums over its rows of dy n and of dy go to `partials` [blocks, 1 or 2, dim].
template <bool rms, DType DX, DType DY, DType X, DType R>
__global__ void __launch_bounds__(kBackwardWarps * kWarp) normGradientKernel(Output<DX> dx, Ptr<float> partials, Input<DY> dy, Input<X> x, Ptr<const float> weight, Ptr<const float> stats, Input<R> residual, int rows, int dim, RowPlan plan) {
  beginKernel();
  constexpr int V = kBackwardVectors<DY, X, R>, kSums = rms ? 1 : 2;
  FP8_SHARED(float, parts, 4 * kMostTeamWarps);
  FP8_SHARED(float, gathered, kSharedTeamThreads * kWide);
  const Team team(plan);
  const int step = int(gridDim.x) * team.teams;
  int first = int(blockIdx.x) * team.teams;
  RowVectors<DY, V> nextDy;
  RowVectors<X, V> nextX;
  float nextMean = 0.0f, nextInv = 0.0f;
  const auto fetch = [&](int r) {
    nextDy.fetch(dy, team, r, rows, dim);
    nextX.fetch(x, team, r, rows, dim);
    if (r >= rows) return;
    if constexpr (rms) nextInv = stats[r];
    else nextMean = stats[2 * r], nextInv = stats[2 * r + 1];
  };
  fetch(first + team.index);
  float sums[kSums][V][kWide] = {};
  int half = 0;
  for (; first < rows; first += step) {
    const int r = first + team.index;
    const float mean = nextMean, inv = nextInv;
    float n[V][kWide], g[V][kWide], means[2] = {};
#pragma unroll
    for (int q = 0; q < V; q++) unpack(nextX.vector[q], n[q]), unpack(nextDy.vector[q], g[q]);
    fetch(r + step);
    RowVectors<R, V> kept{};
    if (residual.data) kept.fetch(residual, team, r, rows, dim);
    if (r < rows) {
#pragma unroll
      for (int q = 0; q < V; q++) {
        if (team.column(q) >= dim) continue;
        float w[kWide];
        loadWide(weight, team.column(q), w);
#pragma unroll
        for (int k = 0; k < kWide; k++) {
          const float d = g[q][k];
          n[q][k] = math::mul(rms ? n[q][k] : math::sub(n[q][k], mean), inv);
          g[q][k] = math::mul(d, w[k]);
          if constexpr (!rms) means[0] += g[q][k];
          means[1] = math::mulAdd(g[q][k], n[q][k], means[1]);
          sums[0][q][k] = math::mulAdd(d, n[q][k], sums[0][q][k]);
          if constexpr (!rms) sums[kSums - 1][q][k] = math::add(sums[kSums - 1][q][k], d);
        }
      }
    }
    if constexpr (rms) {
      float one[1] = {means[1]};
      teamSums<rms>(team, parts, half, one);
      means[1] = one[0];
    } else {
      teamSums<rms>(team, parts, half, means);
    }
    if (r >= rows) continue;
    // inv (g - mean(g) - n mean(g n)) as g inv + (n slope + offset).
    const float slope = -math::mul(inv, math::mul(means[1], plan.share)), offset = rms ? 0.0f : -math::mul(inv, math::mul(means[0], plan.share));
#pragma unroll
    for (int q = 0; q < V; q++) {
      if (team.column(q) >= dim) continue;
#pragma unroll
      for (int k = 0; k < kWide; k++) g[q][k] = math::mulAdd(g[q][k], inv, rms ? math::mul(n[q][k], slope) : math::mulAdd(n[q][k], slope, offset));
      if (residual.data) {
        float before[kWide];
        unpack(kept.vector[q], before);
#pragma unroll
        for (int k = 0; k < kWide; k++) g[q][k] = math::add(before[k], g[q][k]);
      }
      storeWords(dx.data + int64_t(r) * dim, team.column(q), pack<DX>(g[q]).w);
    }
  }
  // The teams of a block, one after the other.
#pragma unroll
  for (int s = 0; s < kSums; s++) {
#pragma unroll
    for (int q = 0; q < V; q++) {
      if (team.teams > 1) {
        __syncthreads();
        if (team.index > 0) {
#pragma unroll
          for (int k = 0; k < kWide; k++) gathered[k * kSharedTeamThreads + int(threadIdx.x)] = sums[s][q][k];
        }
        __syncthreads();
      }
      if (team.index > 0 || team.column(q) >= dim) continue;
      for (int other = 1; other < team.teams; other++) {
#pragma unroll
        for (int k = 0; k < kWide; k++)
          sums[s][q][k] = math::add(sums[s][q][k], gathered[k * kSharedTeamThreads + other * team.warps * kWarp + team.thread]);
      }
      storeWords(partials, (int64_t(blockIdx.x) * kSums + s) * dim + team.column(q), pack<DType::f32>(sums[s][q]).w);
    }
  }
}

/// normKernel for any row.
template <bool rms, bool measure, DType Y, DType X>
__global__ void __launch_bounds__(kNormThreads, 8) anyNormKernel(Output<Y> y, Ptr<float> stats, Input<X> x, Ptr<const float> weight, Ptr<const float> bias, ScaleJob job, int64_t rows, int64_t dim, float eps) {
  beginKernel();
  if constexpr (measure) {
    if (!needsMeasure(job)) return;
  }
  float scale = 1.0f;
  Seen seen;
  if constexpr (isScaled<Y> && !measure) scale = chooseScale(job);
  for (int64_t r = int64_t(blockIdx.x) * kRowsPerBlock + warpOf(); r < rows; r += int64_t(gridDim.x) * kRowsPerBlock) {
    const RowStats s = rowStats<rms>(x, r, dim, eps);
    for (int64_t c = laneOf(); c < dim; c += kWarp) {
      float v = math::mul(math::mul(x.one(r * dim + c, 1.0f) - s.mean, s.inv), weight[c]);
      if (bias) v = math::add(v, bias[c]);
      if constexpr (measure) {
        const unsigned m = magnitude(v);
        if (m > seen.largest) seen.largest = m;
      } else if constexpr (isScaled<Y>) {
        const float t = math::mul(v, scale);
        seen.add(v, t, job.max);
        y.data[r * dim + c] = Form<Y>::encode(t);
      } else {
        y.data[r * dim + c] = Form<Y>::encode(v);
      }
    }
    if (!measure && laneOf() == 0) {
      if constexpr (rms) stats[r] = s.inv;
      else stats[2 * r] = s.mean, stats[2 * r + 1] = s.inv;
    }
  }
  finishNorm<measure, isScaled<Y>>(job, seen, scale);
}

/// normGradientKernel for any row, dx alone.
template <bool rms, DType DX, DType DY, DType X, DType R>
__global__ void __launch_bounds__(kNormThreads, 8) anyNormGradientKernel(Output<DX> dx, Input<DY> dy, Input<X> x, Ptr<const float> weight, Ptr<const float> stats, Input<R> residual, int64_t rows, int64_t dim) {
  beginKernel();
  for (int64_t r = int64_t(blockIdx.x) * kRowsPerBlock + warpOf(); r < rows; r += int64_t(gridDim.x) * kRowsPerBlock) {
    const float mean = rms ? 0.0f : float(stats[2 * r]), inv = rms ? stats[r] : stats[2 * r + 1];
    float sumG = 0.0f, sumGn = 0.0f;
    for (int64_t c = laneOf(); c < dim; c += kWarp) {
      const float n = math::mul(x.one(r * dim + c, 1.0f) - mean, inv), g = math::mul(dy.one(r * dim + c, 1.0f), weight[c]);
      sumG += g;
      sumGn = math::mulAdd(g, n, sumGn);
    }
    const float meanG = rms ? 0.0f : math::div(warpSum(sumG), float(dim)), meanGn = math::div(warpSum(sumGn), float(dim));
    for (int64_t c = laneOf(); c < dim; c += kWarp) {
      const int64_t i = r * dim + c;
      const float n = math::mul(x.one(i, 1.0f) - mean, inv), g = math::mul(dy.one(i, 1.0f), weight[c]);
      float d = math::mul(inv, math::sub(math::sub(g, meanG), math::mul(n, meanGn)));
      if (residual.data) d = math::add(residual.one(i, 1.0f), d);
      dx.data[i] = Form<DX>::encode(d);
    }
  }
}

/// dy n and dy of one element: what it adds to dweight and dbias (rms has none).
template <bool rms, DType DY, DType X> struct WeightGradients {
  Input<DY> dy;
  Input<X> x;
  Ptr<const float> stats;
  __device__ __forceinline__ void at(int64_t r, int64_t c, int64_t dim, float v[rms ? 1 : 2]) const {
    const float mean = rms ? 0.0f : float(stats[2 * r]), inv = rms ? stats[r] : stats[2 * r + 1];
    const float d = dy.one(r * dim + c, 1.0f);
    v[0] = math::mul(d, math::mul(x.one(r * dim + c, 1.0f) - mean, inv));
    if constexpr (!rms) v[1] = d;
  }
};

template <bool rms>
void normForward(const char* name, const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& window, int64_t rows, int64_t dim, double eps) {
  ScaleJob job{};
  if (isScaledType(y.dtype)) {
    job = scaleJob(y);
    job.window = ptr<float>(window, "window");
  }
  const bool aligned = rows < kMostRows && isAligned(y) && isAligned(x) && isAligned(weight) && isAligned(bias);
  withAct(x.dtype, [&](auto d) {
    constexpr DType X = decltype(d)::value;
    const RowPlan plan = aligned ? rowPlan(dim, kForwardVectors<X>, 4, kForwardWarps) : RowPlan{0, 0, 0.0f};
    const auto call = [&](auto kernel, const auto& to, dim3 grid, unsigned threads, auto... more) {
      launch(name, kernel, grid, dim3(threads), to, ptr<float>(stats, "stats"), input<X>(x, "x"), ptr<const float>(weight, "weight"), ptr<const float>(bias, "bias"), job, rows, dim, float(eps),
             more...);
    };
    const auto go = [&](auto measures, auto type, const auto& to) {
      constexpr bool measure = decltype(measures)::value;
      constexpr DType Y = decltype(type)::value;
      const auto byTeams = [&](auto kernel) {
        const unsigned blocks = blocksOf(kernel, rows, plan.teams * kRowsTogether<X>, plan.threads());
        call(kernel, to, dim3(measure ? measureBlocks(blocks) : blocks), plan.threads(), plan);
      };
      if (!plan.warps) call(&anyNormKernel<rms, measure, Y, X>, to, rowBlocks(rows), kNormThreads);
      else if (rms || !bias) byTeams(&normKernel<rms, false, measure, Y, X>);
      else byTeams(&normKernel<rms, !rms, measure, Y, X>);
    };
    if (isScaledType(y.dtype)) {
      go(std::true_type{}, Of<DType::f32>{}, Output<DType::f32>{nullptr, false});
      if (!rms && layerNormToFp8(name, job, y, stats, x, weight, bias, rows, dim, eps)) return;
    }
    withOneOf<DType::f32, DType::bf16, DType::e4m3, DType::e5m2>(y.dtype, [&](auto e) { go(std::false_type{}, e, output<decltype(e)::value>(y, "y")); });
  });
}

template <bool rms>
void normBackward(const char* name, const Tensor& dx, const Tensor& dweight, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  if (rows == 0 || dim == 0) return;
  const bool aligned = rows < kMostRows && isAligned(dx) && isAligned(dy) && isAligned(x) && isAligned(weight) && isAligned(residual);
  constexpr int kSums = rms ? 1 : 2;
  const Ptr<float> sumW = ptr<float>(dweight, "dweight"), sumB = ptr<float>(dbias, "dbias");
  const Ptr<const float> rowStats = ptr<const float>(stats, "stats"), w = ptr<const float>(weight, "weight");
  withAct(dy.dtype, [&](auto d) {
    withAct(x.dtype, [&](auto e) {
      constexpr DType DY = decltype(d)::value, X = decltype(e)::value;
      const Input<DY> inDy = input<DY>(dy, "dy");
      const Input<X> inX = input<X>(x, "x");
      withAct(dx.dtype, [&](auto f) {
        withAct(residual ? residual.dtype : X, [&](auto g) {
          constexpr DType DX = decltype(f)::value, R = decltype(g)::value;
          const Output<DX> out = output<DX>(dx, "dx");
          const Input<R> add = input<R>(residual, "residual");
          const RowPlan plan = aligned ? rowPlan(dim, kBackwardVectors<DY, X, R>, kSharedTeamThreads / kWarp, kBackwardWarps) : RowPlan{0, 0, 0.0f};
          if (!plan.warps) {
            // Before dx, which may be the same tensor as dy's residual but never as dy or x.
            addColumns<kSums>(name, WeightGradients<rms, DY, X>{inDy, inX, rowStats}, sumW, sumB, rows, dim);
            launch(name, anyNormGradientKernel<rms, DX, DY, X, R>, rowBlocks(rows), dim3(kNormThreads), out, inDy, inX, w, rowStats, add, rows, dim);
            return;
          }
          const auto kernel = &normGradientKernel<rms, DX, DY, X, R>;
          const unsigned blocks = blocksOf(kernel, rows, plan.teams, plan.threads());
          const Scratch partials(size_t(blocks) * size_t(kSums * dim) * sizeof(float));
          const Ptr<float> p = partials.as<float>("partial column sums");
          launch(name, kernel, dim3(blocks), dim3(plan.threads()), out, p, inDy, inX, w, rowStats, add, rows, dim, plan);
          addTotals<kSums>(name, sumW, sumB, p, dim, int64_t(blocks));
        });
      });
    });
  });
}

}  // namespace

void layer_norm_forward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& window, int64_t rows, int64_t dim, double eps) {
  normForward<false>("layer_norm_forward", y, stats, x, weight, bias, window, rows, dim, eps);
}

void layer_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  normBackward<false>("layer_norm_backward", dx, dweight, dbias, dy, x, weight, stats, residual, rows, dim);
}

void rms_norm_forward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& window, int64_t rows, int64_t dim, double eps) {
  normForward<true>("rms_norm_forward", y, stats, x, weight, Tensor{}, window, rows, dim, eps);
}

void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  normBackward<true>("rms_norm_backward", dx, dweight, Tensor{}, dy, x, weight, stats, residual, rows, dim);
}

}  // namespace fp8lm
