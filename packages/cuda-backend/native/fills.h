#pragma once
#include "context.h"

namespace fp8lm {

/// y = x, of float32. Those that follow each other, as of the gradients of all parameters, go in one launch.
void fillFloats(const Tensor& y, int64_t n, float x);

}  // namespace fp8lm
