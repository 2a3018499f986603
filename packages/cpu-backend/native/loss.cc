// softmax_cross_entropy: rows over threads; the arithmetic is in loss.inl.
#include "loss.h"

#include "kernels.gen.h"
#include "ranges.h"

namespace fp8lm {

void softmax_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& targets, int64_t rows, int64_t vocab,
                           double grad_scale, double smoothing, int64_t backward) {
  const LossArgs args{&logits,           loss.as<float>(), targets.as<int32_t>(), vocab,
                      float(grad_scale), smoothing,        backward != 0};
  const LossTable& table = lossTable();
  forRows(rows, 8 * vocab, [&](int, int64_t begin, int64_t end) { table.rows(args, begin, end); });
}

}  // namespace fp8lm
