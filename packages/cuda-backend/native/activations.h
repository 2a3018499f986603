// GELU and SiLU as math.h has them, with the chip's own 2^x and 1 / x (2 ulp each) in place of polynomials and divisions:
// sigmoid(x) = 1 / (1 + 2^(-x / ln 2)). The exponent stops at 126, where the sigmoid is the smallest normal float32, so that
// an infinite x is multiplied by no zero. Near math.h within a few ulp of the result's largest factor.
#pragma once
#include "packed.h"

namespace fp8lm {

constexpr double kLog2E = 1.4426950408889634;

/// 1 / (1 + 2^n). NaN stays NaN.
__device__ __forceinline__ float sigmoidOfPower(float n) { return nearlyRecip(math::add(1.0f, fastExp2(smallerOf(n, 126.0f)))); }
__device__ __forceinline__ float sigmoidFast(float x) { return sigmoidOfPower(math::mul(x, float(-kLog2E))); }
__device__ __forceinline__ float siluFast(float x) { return math::mul(x, sigmoidFast(x)); }

__device__ __forceinline__ float geluSigmoidFast(float x) {
  return sigmoidOfPower(math::mul(x, math::mulAdd(math::mul(x, x), float(-0.0713548163 * kLog2E), float(-1.59576912 * kLog2E))));
}
__device__ __forceinline__ float geluFast(float x) { return math::mul(x, geluSigmoidFast(x)); }
__device__ __forceinline__ float geluDerivativeFast(float x) {
  const float s = geluSigmoidFast(x), slope = math::mulAdd(math::mul(x, x), 0.214064449f, 1.59576912f);
  return math::mulAdd(math::mul(x, slope), math::mul(s, math::sub(1.0f, s)), s);
}

}  // namespace fp8lm
