// Sums of kernels.def in float64, and the clipping decision made from them. A sum goes over chunks of 64 k elements, added
// up in order: the same bits for any number of threads, and (sixteen fixed lanes) on every instruction set.
#include <cmath>
#include <vector>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "adamw.h"
#include "ranges.h"
#include "scaling.h"

namespace fp8lm {

namespace {

constexpr int64_t kChunk = 65536;

template <class F> double chunkedSum(int64_t n, F&& f) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  static thread_local std::vector<double> partials;
  partials.resize(size_t(chunks));
  double* const out = partials.data();
  parallelFor(chunks, [&](int, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) out[c] = f(c * kChunk, (c + 1) * kChunk < n ? (c + 1) * kChunk : n);
  });
  double total = 0.0;
  for (int64_t c = 0; c < chunks; c++) total += out[c];
  return total;
}

}  // namespace

void sum(const Tensor& y, const Tensor& x, int64_t n, double alpha) {
  y.as<float>()[0] = float(alpha * chunkedSum(n, [&](int64_t begin, int64_t end) {
                             return optimizerTable().sum(x.as<float>(), begin, end);
                           }));
}

void sum_squares(const Tensor& y, const Tensor& x, int64_t n) {
  const auto fn = optimizerTable().sumSquares[typeIndex(x)];
  const double inv = x.dtype >= DType::f16 ? double(x.scaleInv()) : 1.0;
  y.as<float>()[0] = float(inv * inv * chunkedSum(n, [&](int64_t begin, int64_t end) { return fn(x.data, begin, end); }));
}

void clip_control(const Tensor& control, const Tensor& sums, int64_t count, double max_norm) {
  double total = 0.0;
  for (int64_t i = 0; i < count; i++) total += double(sums.as<float>()[i]);
  const double norm = std::sqrt(total);
  float* const c = control.as<float>();
  const bool skip = !std::isfinite(float(norm));
  c[0] = max_norm > 0.0 && norm > max_norm ? float(max_norm / (norm + 1e-6)) : 1.0f;
  c[1] = float(norm);
  c[2] = skip ? 1.0f : 0.0f;
  if (!skip) c[3] += 1.0f;
}

}  // namespace fp8lm
