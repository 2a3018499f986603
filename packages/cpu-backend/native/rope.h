// Range function of rope (rope.inl), one table an instruction set.
#pragma once
#include "table.h"
#include "tensor.h"

namespace fp8lm {

struct RopeArgs {
  const Tensor *y, *x;
  int64_t heads, kvHeads, dim;
};

struct RopeTable {
  /// Rotates q and k of rows [begin, end), all of one position, and copies v. cosines and sines: dim / 2 each.
  void (*rotate)(const RopeArgs&, const float* cosines, const float* sines, int64_t begin, int64_t end);
};

FP8_TABLE(RopeTable, rope)

}  // namespace fp8lm
