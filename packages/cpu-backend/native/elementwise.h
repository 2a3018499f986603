// Range functions of the elementwise group, per instruction set (elementwise_body.h).
#pragma once
#include "scaling.h"
#include "table.h"

namespace fp8lm {

/// Indexed by dtype (0 f32, 1 bf16); outputs that may be fp8 have five forms: dtypes, with kAmaxPass at f16's place.
struct ElementwiseTable {
  void (*add[2][2][2])(void* y, const void* a, const void* b, int64_t begin, int64_t end);
  void (*scale[2][2])(void* y, const void* x, float alpha, int64_t begin, int64_t end);
  CastStats (*gelu[5][2])(void* y, const void* x, float scale, int64_t begin, int64_t end);
  void (*geluBackward[2][2][2])(void* dx, const void* dy, const void* x, int64_t begin, int64_t end);
  CastStats (*swiglu[5][2])(void* y, const void* x, float scale, int64_t begin, int64_t end, int64_t dim);  // rows
  void (*swigluBackward[2][2][2])(void* dx, const void* dy, const void* x, int64_t begin, int64_t end, int64_t dim);
};

FP8_TABLE(ElementwiseTable, elementwise)

}  // namespace fp8lm
