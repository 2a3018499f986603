// Range functions of the norms, per instruction set (norms_body.h). Layer norm and RMS norm are one template: RMS norm has
// mean 0 and no bias. Rows [begin, end) of `dim`.
#pragma once
#include "scaling.h"
#include "table.h"

namespace fp8lm {

struct NormForward {
  void* y;
  float* stats;  // layer: mean, 1/std; rms: 1/rms
  const void* x;
  const float *weight, *bias;  // bias may be null
  int64_t dim;
  float eps, scale;
};

struct NormBackward {
  void* dx;
  float* partial;  // sums over these rows of dy * xhat [dim] and, for layer norm, of dy [dim]
  const void *dy, *x;
  const float *weight, *stats;
  const void* residual;  // may be null, may be dx
  int64_t dim;
  DType dxType, dyType, xType, residualType;
};

using NormForwardFn = CastStats (*)(const NormForward&, int64_t begin, int64_t end);
using NormBackwardFn = void (*)(const NormBackward&, int64_t begin, int64_t end);

/// forward: [layer = 0, rms = 1][y, kAmaxPass at f16's place][x]; backward: [layer, rms][all f32 = 0, all bf16 = 1, mixed = 2].
struct NormTable {
  NormForwardFn forward[2][5][2];
  NormBackwardFn backward[2][3];
};

FP8_TABLE(NormTable, norms)

}  // namespace fp8lm
