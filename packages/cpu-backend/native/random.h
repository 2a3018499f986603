// Range functions of dropout and random_normal (random.inl), one table an instruction set.
#pragma once
#include "philox.h"
#include "table.h"
#include "tensor.h"

namespace fp8lm {

struct DropoutArgs {
  const Tensor *y, *x, *residual;
  uint64_t threshold;  // words below it drop their element; at most 2^32 - 1
  float gain;          // 1 / (1 - rate)
  PhiloxKey key;
  uint64_t stream, offset;
};

struct NormalArgs {
  float* y;
  float std;
  PhiloxKey key;
  uint64_t stream, offset;
};

struct RandomTable {
  void (*dropout)(const DropoutArgs&, int64_t begin, int64_t end);
  void (*normal)(const NormalArgs&, int64_t begin, int64_t end);
};

FP8_TABLE(RandomTable, random)

}  // namespace fp8lm
