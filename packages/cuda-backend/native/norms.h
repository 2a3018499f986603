// What the files of the norms share.
#pragma once
#include "rows.h"
#include "scaling.h"

namespace fp8lm {

/// Layer norm, forward, from bf16 to FP8 in the way of norms_fp8.cu; `job` says how y's scale is chosen.
/// @returns false, and does nothing, where the device, the dtypes, the alignment or the length of a row are not for it
bool layerNormToFp8(const char* name, const ScaleJob& job, const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t rows, int64_t dim, double eps);

}  // namespace fp8lm
