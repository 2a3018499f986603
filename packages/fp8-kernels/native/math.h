// Scalar math of the kernels, written once for three users: float on the CPU, float on CUDA, and the CPU's vector type
// (packages/cpu-backend/native/vec.h). Each function is a template over F, built from a handful of primitives that every F
// provides as overloads:
//   add sub mul div sqrt    IEEE, rounded once, never contracted: what the bit-exact kernels use
//   mulAdd(a, b, c)         a * b + c with or without an intermediate rounding, whichever is fast
//   recip(x)                1 / x within 1 ulp for normal x and 1/x
//   roundEven(x)            to the nearest integer, |x| < 2^22
//   scalePow2(x, n)         x * 2^n for integral n in [-252, 256], overflow to inf and underflow to 0 included
//   atMost(x, c) atLeast(x, c)   min and max with a constant; NaN stays NaN
// exp: range reduction by ln 2 in two parts (Cody and Waite 1980) and a polynomial of degree 6; at most 1 ulp or so.
#pragma once
#include "float8.h"

/// A namespace of its own: unqualified sqrt(double) or exp(double) in fp8lm must never find the float versions.
namespace fp8lm::math {

#if defined(__CUDA_ARCH__)
FP8_HD float add(float a, float b) { return __fadd_rn(a, b); }
FP8_HD float sub(float a, float b) { return __fsub_rn(a, b); }
FP8_HD float mul(float a, float b) { return __fmul_rn(a, b); }
FP8_HD float div(float a, float b) { return __fdiv_rn(a, b); }
FP8_HD float sqrt(float a) { return __fsqrt_rn(a); }
FP8_HD float mulAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FP8_HD float roundEven(float x) { return rintf(x); }
#else
FP8_HD float add(float a, float b) { return a + b; }
FP8_HD float sub(float a, float b) { return a - b; }
FP8_HD float mul(float a, float b) { return a * b; }
FP8_HD float div(float a, float b) { return a / b; }
FP8_HD float sqrt(float a) { return __builtin_sqrtf(a); }
FP8_HD float mulAdd(float a, float b, float c) { return a * b + c; }
FP8_HD float roundEven(float x) { return (x + 12582912.0f) - 12582912.0f; }
#endif
FP8_HD float recip(float x) { return div(1.0f, x); }
FP8_HD float atMost(float x, float c) { return x > c ? c : x; }
FP8_HD float atLeast(float x, float c) { return x < c ? c : x; }
FP8_HD float scalePow2(float x, float n) {
  if (!(n == n)) return n;
  const int whole = int(n), half = whole >> 1;
  return mul(mul(x, floatOf(uint32_t(half + 127) << 23)), floatOf(uint32_t(whole - half + 127) << 23));
}

/// e^x for x in [-104, 89] or NaN.
template <class F> FP8_HD F expInRange(F x) {
  const F n = roundEven(mul(x, F(1.44269504f)));
  F r = mulAdd(n, F(-0.693359375f), x);    // exact: 9 bits of ln 2
  r = mulAdd(n, F(2.12194440e-4f), r);     // the rest of ln 2
  F p = F(1.9875691500e-4f);
  p = mulAdd(p, r, F(1.3981999507e-3f));
  p = mulAdd(p, r, F(8.3334519073e-3f));
  p = mulAdd(p, r, F(4.1665795894e-2f));
  p = mulAdd(p, r, F(1.6666665459e-1f));
  p = mulAdd(p, r, F(5.0000001201e-1f));
  p = mulAdd(p, mul(r, r), add(r, F(1.0f)));
  return scalePow2(p, n);
}

/// e^x. exp(-inf) = 0, exp(+inf) = inf, NaN stays NaN, results below the normal range are rounded, not flushed.
template <class F> FP8_HD F exp(F x) { return expInRange(atMost(atLeast(x, F(-104.0f)), F(89.0f))); }

/// 1 / (1 + e^n). The exponent stops at 87, where the result is about 1.6e-38, so that recip stays in range.
template <class F> FP8_HD F sigmoidOfNegative(F n) {
  return recip(add(expInRange(atMost(atLeast(n, F(-87.0f)), F(87.0f))), F(1.0f)));
}
template <class F> FP8_HD F sigmoid(F x) { return sigmoidOfNegative(sub(F(0.0f), x)); }

/// tanh x = 1 - 2 / (1 + e^2x): absolute error about 1e-7 (near 0 the relative error is larger).
template <class F> FP8_HD F tanh(F x) {
  return sub(F(1.0f), mul(F(2.0f), sigmoidOfNegative(add(x, x))));
}

template <class F> FP8_HD F silu(F x) { return mul(x, sigmoid(x)); }

/// d silu / dx = s (1 + x (1 - s)), s = sigmoid(x).
template <class F> FP8_HD F siluDerivative(F x, F s) { return mul(s, mulAdd(x, sub(F(1.0f), s), F(1.0f))); }

// gelu(x) = x/2 (1 + tanh(u)) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3).
template <class F> FP8_HD F geluSigmoid(F x) {
  return sigmoidOfNegative(mul(x, mulAdd(mul(x, x), F(-0.0713548163f), F(-1.59576912f))));
}
template <class F> FP8_HD F gelu(F x) { return mul(x, geluSigmoid(x)); }

/// d gelu / dx = s + x s (1 - s) (2u)', s = sigmoid(2u).
template <class F> FP8_HD F geluDerivative(F x) {
  const F s = geluSigmoid(x);
  const F slope = mulAdd(mul(x, x), F(0.214064449f), F(1.59576912f));
  return mulAdd(mul(x, slope), mul(s, sub(F(1.0f), s)), s);
}

/// Constants of one AdamW step, computed in float64 and rounded once (Loshchilov and Hutter 2019).
struct AdamWStep {
  float beta1, beta2, oneMinusBeta1, oneMinusBeta2, rootCorrection2, step, decay, eps, clip;
};

/// m and v, updated in place, of one element; float32, bit-exact on every backend like adamwUpdate.
template <class F> FP8_HD void adamwMoments(F gradValue, F& m, F& v, const AdamWStep& s) {
  const F g = mul(gradValue, F(s.clip));
  m = add(mul(F(s.beta1), m), mul(F(s.oneMinusBeta1), g));
  v = add(mul(F(s.beta2), v), mul(F(s.oneMinusBeta2), mul(g, g)));
}

/// The new weight, with m and v updated in place.
template <class F> FP8_HD F adamwUpdate(F p, F gradValue, F& m, F& v, const AdamWStep& s) {
  adamwMoments(gradValue, m, v, s);
  const F u = div(m, add(mul(sqrt(v), F(s.rootCorrection2)), F(s.eps)));
  return sub(mul(p, F(s.decay)), mul(F(s.step), u));
}

}  // namespace fp8lm::math
