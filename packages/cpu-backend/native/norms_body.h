// Layer norm and RMS norm over rows, on the instruction set this file is compiled for. With xhat = (x - mean) / std:
//
//   y  = xhat * weight + bias
//   dx = residual + (g - mean(g) - xhat * mean(g * xhat)) / std,  g = dy * weight     (RMS norm: without mean(g))
//
// Ba et al. 2016, Zhang and Sennrich 2019. The variance is that of a second pass over the row, which is in L1 by then.
#pragma once
#include "norms.h"
#include "sinks.h"

namespace fp8lm::FP8_VEC {

/// Sum over a row of f(i, count), in four interleaved partial sums.
template <class F> FP8_INLINE float rowSum(int64_t dim, F f) {
  F32 a(0.0f), b(0.0f), c(0.0f), d(0.0f);
  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
    a = a + f(i, kLanes), b = b + f(i + kLanes, kLanes);
    c = c + f(i + 2 * kLanes, kLanes), d = d + f(i + 3 * kLanes, kLanes);
  }
  forVectors(i, dim, [&](int64_t j, int64_t count) FP8_LAMBDA { a = a + firstLanes(f(j, count), count); });
  return sumLanes((a + b) + (c + d));
}

template <bool layer, class Out, class X> CastStats normForwardRange(const NormForward& p, int64_t begin, int64_t end) {
  Out sink(p.y, p.scale);
  const float perDim = 1.0f / float(p.dim);
  for (int64_t r = begin; r < end; r++) {
    const X* const x = static_cast<const X*>(p.x) + r * p.dim;
    float mean = 0.0f;
    if (layer) mean = rowSum(p.dim, [&](int64_t i, int64_t count) FP8_LAMBDA { prefetch(x + i); return loadAt(x, i, count); }) * perDim;
    const F32 center(mean);
    const float squares = rowSum(p.dim, [&](int64_t i, int64_t count) FP8_LAMBDA {
      const F32 d = loadAt(x, i, count) - center;
      return d * d;
    });
    const float inverse = 1.0f / __builtin_sqrtf(squares * perDim + p.eps);
    if (layer) p.stats[2 * r] = mean, p.stats[2 * r + 1] = inverse;
    else p.stats[r] = inverse;
    const F32 factor(inverse);
    const auto row = [&](auto withBias) FP8_LAMBDA {
      emit(sink, 0, p.dim, r * p.dim, [&](int64_t i, int64_t count) FP8_LAMBDA {
        const F32 xhat = (loadAt(x, i, count) - center) * factor, weight = loadAt(p.weight, i, count);
        if constexpr (decltype(withBias)::value) return mulAdd(xhat, weight, loadAt(p.bias, i, count));
        else return xhat * weight;
      });
    };
    if (layer && p.bias) row(Yes{});
    else row(No{});
  }
  return sink.stats();
}

/// `rows` rows at a time, so that the running column sums are touched once for all of them.
template <int rows, bool layer, class T>
FP8_INLINE void normBackwardRows(const NormBackward& p, int64_t r) {
  const int64_t first = r * p.dim;
  F32 mean[rows], inverse[rows], sumG[rows], sumGX[rows];
  for (int k = 0; k < rows; k++) {
    mean[k] = F32(layer ? p.stats[2 * (r + k)] : 0.0f);
    inverse[k] = F32(layer ? p.stats[2 * (r + k) + 1] : p.stats[r + k]);
    sumG[k] = sumGX[k] = F32(0.0f);
  }
  forVectors(0, p.dim, [&](int64_t i, int64_t count) FP8_LAMBDA {
    const F32 weight = loadAt(p.weight, i, count);
    F32 toWeight = loadAt(p.partial, i, count), toBias(0.0f);
    if (layer) toBias = loadAt(p.partial + p.dim, i, count);
    for (int k = 0; k < rows; k++) {
      const F32 d = loadAct<T>(p.dy, p.dyType, first + k * p.dim + i, count), xhat = (loadAct<T>(p.x, p.xType, first + k * p.dim + i, count) - mean[k]) * inverse[k];
      const F32 g = d * weight;  // 0 in the lanes beyond a tail
      sumG[k] = sumG[k] + g;
      sumGX[k] = mulAdd(g, xhat, sumGX[k]);
      toWeight = mulAdd(d, xhat, toWeight);
      if (layer) toBias = toBias + d;
    }
    storeAt(p.partial, i, toWeight, count);
    if (layer) storeAt(p.partial + p.dim, i, toBias, count);
  });
  const float perDim = 1.0f / float(p.dim);
  for (int k = 0; k < rows; k++) {
    const F32 meanG(layer ? sumLanes(sumG[k]) * perDim : 0.0f), meanGX(sumLanes(sumGX[k]) * perDim);
    const int64_t at = first + k * p.dim;
    const auto row = [&](auto withResidual) FP8_LAMBDA {
      forVectors(0, p.dim, [&](int64_t i, int64_t count) FP8_LAMBDA {
        const F32 g = loadAct<T>(p.dy, p.dyType, at + i, count) * loadAt(p.weight, i, count);
        const F32 xhat = (loadAct<T>(p.x, p.xType, first + k * p.dim + i, count) - mean[k]) * inverse[k];
        F32 d = (layer ? g - meanG : g) - xhat * meanGX;
        if constexpr (decltype(withResidual)::value) d = mulAdd(d, inverse[k], loadAct<T>(p.residual, p.residualType, at + i, count));
        else d = d * inverse[k];
        storeAct<T>(p.dx, p.dxType, at + i, d, count);
      });
    };
    if (p.residual) row(Yes{});
    else row(No{});
  }
}

template <bool layer, class T>
void normBackwardRange(const NormBackward& p, int64_t begin, int64_t end) {
  memset(p.partial, 0, size_t(p.dim) * sizeof(float) * (layer ? 2 : 1));
  int64_t r = begin;
  for (; r + 4 <= end; r += 4) normBackwardRows<4, layer, T>(p, r);
  for (; r < end; r++) normBackwardRows<1, layer, T>(p, r);
}

#define FP8_NORM_IN(layer, Out) {normForwardRange<layer, Out, float>, normForwardRange<layer, Out, BF16>}
#define FP8_NORM_FORWARD(layer)                                                                                     \
  {FP8_NORM_IN(layer, Sink<float>), FP8_NORM_IN(layer, Sink<BF16>), FP8_NORM_IN(layer, AmaxSink),                   \
   FP8_NORM_IN(layer, Sink<E4M3>), FP8_NORM_IN(layer, Sink<E5M2>)}
#define FP8_NORM_BACKWARD(layer) {normBackwardRange<layer, float>, normBackwardRange<layer, BF16>, normBackwardRange<layer, Act>}

extern const NormTable norms = {
    {FP8_NORM_FORWARD(true), FP8_NORM_FORWARD(false)},
    {FP8_NORM_BACKWARD(true), FP8_NORM_BACKWARD(false)},
};

}  // namespace fp8lm::FP8_VEC
