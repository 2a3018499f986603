// softmax_cross_entropy, whole and over a slice of the vocabulary: rows over threads; the arithmetic is in loss.inl.
#include "loss.h"

#include <stdexcept>
#include <string>

#include "kernels.gen.h"
#include "ranges.h"

namespace fp8lm {

void softmax_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& targets, int64_t rows, int64_t vocab,
                           int64_t stride, double grad_scale, double smoothing, int64_t backward) {
  if (stride < vocab) throw std::invalid_argument("stride " + std::to_string(stride) + " is less than vocab " + std::to_string(vocab));
  const LossArgs args{&logits, loss.as<float>(),  targets.as<int32_t>(), vocab,
                      stride,  float(grad_scale), smoothing,             backward != 0};
  const LossTable& table = lossTable();
  forRows(rows, 8 * vocab, [&](int, int64_t begin, int64_t end) { table.rows(args, begin, end); });
}

void softmax_stats(const Tensor& stats, const Tensor& logits, const Tensor& targets, int64_t rows, int64_t vocab,
                   int64_t vocab_start) {
  const ShardArgs args{&logits, stats.as<float>(), nullptr, targets.as<int32_t>(), rows, vocab, vocab_start, 1, 0,
                       0,       0,                 false};
  const LossTable& table = lossTable();
  forRows(rows, 5 * vocab, [&](int, int64_t begin, int64_t end) { table.stats(args, begin, end); });
}

void sharded_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& stats, const Tensor& targets,
                           int64_t rows, int64_t vocab, int64_t vocab_start, int64_t parts, int64_t total,
                           double grad_scale, double smoothing, int64_t backward) {
  const ShardArgs args{&logits, stats.as<float>(), loss.as<float>(),  targets.as<int32_t>(),
                       rows,    vocab,             vocab_start,       parts,
                       total,   float(grad_scale), smoothing,         backward != 0};
  const LossTable& table = lossTable();
  forRows(rows, 4 * vocab, [&](int, int64_t begin, int64_t end) { table.shard(args, begin, end); });
}

}  // namespace fp8lm
