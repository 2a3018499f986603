// Row functions of softmax_cross_entropy and of its form over a slice of the vocabulary (loss.inl), one table an instruction set.
#pragma once
#include "table.h"
#include "tensor.h"

namespace fp8lm {

struct LossArgs {
  const Tensor* logits;  // [rows, stride]
  float* loss;
  const int32_t* targets;
  int64_t vocab, stride;
  float gradScale;
  double smoothing;
  bool backward;
};

/// Loss over a slice of the vocabulary.
struct ShardArgs {
  const Tensor* logits;  // [rows, vocab]
  float* stats;          // softmax_stats writes [rows, 4]; sharded_cross_entropy reads [parts, rows, 4]
  float* loss;
  const int32_t* targets;
  int64_t rows, vocab, vocabStart, parts, total;
  float gradScale;
  double smoothing;
  bool backward;
};

struct LossTable {
  void (*rows)(const LossArgs&, int64_t begin, int64_t end);
  void (*stats)(const ShardArgs&, int64_t begin, int64_t end);
  void (*shard)(const ShardArgs&, int64_t begin, int64_t end);
};

FP8_TABLE(LossTable, loss)

}  // namespace fp8lm
