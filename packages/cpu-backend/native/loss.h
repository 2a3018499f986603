// Row function of softmax_cross_entropy (loss.inl), one table an instruction set.
#pragma once
#include "table.h"
#include "tensor.h"

namespace fp8lm {

struct LossArgs {
  const Tensor* logits;  // [rows, vocab]
  float* loss;
  const int32_t* targets;
  int64_t vocab;
  float gradScale;
  double smoothing;
  bool backward;
};

struct LossTable {
  void (*rows)(const LossArgs&, int64_t begin, int64_t end);
};

FP8_TABLE(LossTable, loss)

}  // namespace fp8lm
