// Range functions of the cast group, per instruction set (casts_body.h), and the drivers' view of them.
#pragma once
#include "scaling.h"
#include "table.h"

namespace fp8lm {

/// Elements [begin, end): y = encode((x * scaleInv) * scale), or a plain convert for f32 and bf16 outputs.
using CastFn = CastStats (*)(void* y, const void* x, float scaleInv, float scale, int64_t begin, int64_t end);
/// The largest stored |x|; +inf if any NaN.
using AmaxFn = float (*)(const void* x, int64_t begin, int64_t end);
/// Rows [begin, end) of `dim`, like CastFn; partial[c] = column sums of those rows of x.
using CastRowsFn = CastStats (*)(void* y, float* partial, const void* x, float scale, int64_t begin, int64_t end, int64_t dim);
/// t = y * scaleInv + x: its amax, or y = encode(t * scale).
using AccumulateAmaxFn = float (*)(const void* y, const void* x, float scaleInv, int64_t begin, int64_t end);
using AccumulateFn = CastStats (*)(void* y, const void* x, float scaleInv, float scale, int64_t begin, int64_t end);

/// Indexed by dtype: [y][x]; castRows, accumulate: [y - e4m3][x].
struct CastTable {
  CastFn cast[5][5];
  AmaxFn amax[5];
  CastRowsFn castRows[2][2];
  AccumulateAmaxFn accumulateAmax[2][2];
  AccumulateFn accumulate[2][2];
  int64_t (*countCodes)(const uint8_t* x, uint8_t code, int64_t begin, int64_t end);  // (x & 0x7f) == code
  void (*columnSums[2])(float* partial, const void* x, int64_t begin, int64_t end, int64_t dim);  // partial = sums of rows
};

FP8_TABLE(CastTable, casts)

}  // namespace fp8lm
