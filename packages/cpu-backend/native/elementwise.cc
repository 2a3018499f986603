// The elementwise group of kernels.def: threads and scales; the loops are in elementwise_body.h.
#include "elementwise.h"

#include "../../fp8-kernels/native/kernels.gen.h"
#include "ranges.h"

namespace fp8lm {

void add(const Tensor& y, const Tensor& a, const Tensor& b, int64_t n) {
  const auto fn = elementwiseTable().add[typeIndex(y)][typeIndex(a)][typeIndex(b)];
  forRanges(n, [&](int, int64_t begin, int64_t end) { fn(y.data, a.data, b.data, begin, end); });
}

void scale(const Tensor& y, const Tensor& x, int64_t n, double alpha) {
  const auto fn = elementwiseTable().scale[typeIndex(y)][typeIndex(x)];
  forRanges(n, [&](int, int64_t begin, int64_t end) { fn(y.data, x.data, float(alpha), begin, end); });
}

void gelu_forward(const Tensor& y, const Tensor& x, const Tensor& window, int64_t n) {
  writeOutput(y, window, [&](int slot, float scale) {
    const auto fn = elementwiseTable().gelu[slot][typeIndex(x)];
    return mergeRanges<CastStats>(
        n, [&](int64_t begin, int64_t end) { return fn(y.data, x.data, scale, begin, end); }, kSerialMath);
  });
}

void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t n) {
  const auto fn = elementwiseTable().geluBackward[typeIndex(dx)][typeIndex(dy)][typeIndex(x)];
  forRanges(n, [&](int, int64_t begin, int64_t end) { fn(dx.data, dy.data, x.data, begin, end); }, kSerialMath);
}

void swiglu_forward(const Tensor& y, const Tensor& x, const Tensor& window, int64_t rows, int64_t dim) {
  writeOutput(y, window, [&](int slot, float scale) {
    const auto fn = elementwiseTable().swiglu[slot][typeIndex(x)];
    return mergeRows<CastStats>(
        rows, dim, [&](int64_t begin, int64_t end) { return fn(y.data, x.data, scale, begin, end, dim); });
  });
}

void swiglu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t rows, int64_t dim) {
  const auto fn = elementwiseTable().swigluBackward[typeIndex(dx)][typeIndex(dy)][typeIndex(x)];
  forRows(rows, dim, [&](int, int64_t begin, int64_t end) { fn(dx.data, dy.data, x.data, begin, end, dim); });
}

}  // namespace fp8lm
