// The norms of kernels.def: threads, scales and the sums of weight gradients; the loops are in norms_body.h.
#include "norms.h"

#include "../../fp8-kernels/native/kernels.gen.h"
#include "ranges.h"

namespace fp8lm {

namespace {

enum Norm { kLayerNorm = 0, kRmsNorm = 1 };

void normForward(Norm norm, const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias,
                 const Tensor& window, int64_t rows, int64_t dim, double eps) {
  writeOutput(y, window, [&](int slot, float scale) {
    const NormForward job{y.data, stats.as<float>(), x.data, weight.as<float>(), bias.as<float>(), dim, float(eps), scale};
    const NormForwardFn fn = normsTable().forward[norm][slot][typeIndex(x)];
    return mergeRows<CastStats>(rows, dim, [&](int64_t begin, int64_t end) { return fn(job, begin, end); });
  });
}

void normBackward(Norm norm, const Tensor& dx, const Tensor& dweight, const Tensor& dbias, const Tensor& dy, const Tensor& x,
                  const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  const DType from = residual ? residual.dtype : dx.dtype;
  const bool uniform = dx.dtype == dy.dtype && dx.dtype == x.dtype && dx.dtype == from;
  const NormBackwardFn fn = normsTable().backward[norm][uniform ? typeIndex(dx) : 2];
  const int64_t width = norm == kLayerNorm ? 2 * dim : dim;
  addChunks(RowChunks(rows), width, dim, {dweight.as<float>(), dbias.as<float>()}, [&](int, float* partial, int64_t begin, int64_t end) {
    fn({dx.data, partial, dy.data, x.data, weight.as<float>(), stats.as<float>(), residual.data, dim,
        dx.dtype, dy.dtype, x.dtype, from}, begin, end);
  });
}

}  // namespace

void layer_norm_forward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& window, int64_t rows, int64_t dim, double eps) {
  normForward(kLayerNorm, y, stats, x, weight, bias, window, rows, dim, eps);
}

void layer_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dbias, const Tensor& dy, const Tensor& x,
                         const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  normBackward(kLayerNorm, dx, dweight, dbias, dy, x, weight, stats, residual, rows, dim);
}

void rms_norm_forward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& window,
                      int64_t rows, int64_t dim, double eps) {
  normForward(kRmsNorm, y, stats, x, weight, Tensor{}, window, rows, dim, eps);
}

void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& weight,
                       const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim) {
  normBackward(kRmsNorm, dx, dweight, Tensor{}, dy, x, weight, stats, residual, rows, dim);
}

}  // namespace fp8lm
