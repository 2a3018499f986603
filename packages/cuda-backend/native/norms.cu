// Layer norm and RMS norm, forward and backward. A warp has a row: it reads it once for each statistic (the second time from
// the cache) and once to store. FP8 outputs come straight from float32: norm and cast are one kernel, with a pass that only
// measures before it where the scale is just in time. Gradients of weight and bias are column sums (columns.h).
#include "../../fp8-kernels/native/kernels.gen.h"
#include "columns.h"
#include "scaling.h"

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

/// One pass: statistics, and the values measured (`measure`) or stored.
template <bool rms, bool measure, DType Y, DType X>
__global__ void __launch_bounds__(kNormThreads, 8) normKernel(Output<Y> y, Ptr<float> stats, Input<X> x, Ptr<const float> weight, Ptr<const float> bias, ScaleJob job, int64_t rows, int64_t dim, float eps) {
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
  if constexpr (measure) {
    const unsigned largest = blockReduce<Reduce::max>(seen.largest);
    if (threadIdx.x == 0 && largest) atomicMaxAt(job.words, kMeasured + job.slot, largest);
  } else if constexpr (isScaled<Y>) {
    report(job, seen);
    if (lastBlock(job.words + kTicket) && threadIdx.x == 0) finish(job, scale);
  }
}

// With n = (x - mean) inv and g = dy weight: dx = residual + inv (g - mean(g) - n mean(g n)); rms has no mean(g).
template <bool rms, DType DX, DType DY, DType X, DType R>
__global__ void __launch_bounds__(kNormThreads, 8) normGradientKernel(Output<DX> dx, Input<DY> dy, Input<X> x, Ptr<const float> weight, Ptr<const float> stats, Input<R> residual, int64_t rows, int64_t dim) {
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

/// dy n and dy of one element: what it adds to dweight and dbias.
template <bool rms, DType DY, DType X> struct WeightGradients {
  Input<DY> dy;
  Input<X> x;
  Ptr<const float> stats;
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void at(int64_t r, int64_t c, int64_t dim, float v[2]) const {
    const float mean = rms ? 0.0f : float(stats[2 * r]), inv = rms ? stats[r] : stats[2 * r + 1];
    const float d = dy.one(r * dim + c, 1.0f);
    v[0] = math::mul(d, math::mul(x.one(r * dim + c, 1.0f) - mean, inv));
    v[1] = d;
  }
};

template <bool rms>
void normForward(const char* name, const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& window, int64_t rows, int64_t dim, double eps) {
  ScaleJob job{};
  if (isScaledType(y.dtype)) {
    job = scaleJob(y);
    job.window = ptr<float>(window, "window");
  }
  withAct(x.dtype, [&](auto d) {
    constexpr DType X = decltype(d)::value;
    withOneOf<DType::f32, DType::bf16, DType::e4m3, DType::e5m2>(y.dtype, [&](auto e) {
      constexpr DType Y = decltype(e)::value;
      const auto go = [&](auto kernel) {
        launch(name, kernel, rowBlocks(rows), dim3(kNormThreads), output<Y>(y, "y"), ptr<float>(stats, "stats"), input<X>(x, "x"),
               ptr<const float>(weight, "weight"), ptr<const float>(bias, "bias"), job, rows, dim, float(eps));
      };
      if constexpr (isScaled<Y>) go(&normKernel<rms, true, Y, X>);
      go(&normKernel<rms, false, Y, X>);
    });
  });
}

template <bool rms>
void normBackward(const char* name, const Tensor& dx, const Tensor& dweight, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  withAct(dy.dtype, [&](auto d) {
    withAct(x.dtype, [&](auto e) {
      constexpr DType DY = decltype(d)::value, X = decltype(e)::value;
      // Before dx, which may be the same tensor as dy's residual but never as dy or x.
      addColumns<2>(name, WeightGradients<rms, DY, X>{input<DY>(dy, "dy"), input<X>(x, "x"), ptr<const float>(stats, "stats")},
                    ptr<float>(dweight, "dweight"), ptr<float>(dbias, "dbias"), rows, dim);
      withAct(dx.dtype, [&](auto f) {
        withAct(residual ? residual.dtype : DType::f32, [&](auto g) {
          constexpr DType DX = decltype(f)::value, R = decltype(g)::value;
          launch(name, normGradientKernel<rms, DX, DY, X, R>, rowBlocks(rows), dim3(kNormThreads), output<DX>(dx, "dx"), input<DY>(dy, "dy"),
                 input<X>(x, "x"), ptr<const float>(weight, "weight"), ptr<const float>(stats, "stats"), input<R>(residual, "residual"), rows, dim);
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
