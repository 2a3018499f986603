// Scalar casts between float32 and the narrow float formats: one header for the CPU and the CUDA backend, so that both
// produce the same bits.
//
//   e4m3  s eeee mmm   bias 7    no infinity; S.1111.111 is NaN; largest finite 448; smallest 2^-9
//   e5m2  s eeeee mm   bias 15   IEEE-like;   S.11111.00 is infinity; largest finite 57344; smallest 2^-16
//   bf16  s e8 m7      bias 127  upper half of a float32
//   f16   s e5 m10     bias 15   IEEE half
//
// Rounding is to nearest, ties to even, from the float32 in ONE step (through bf16 or f16 first would round twice).
// Saturating casts clamp every finite or infinite value beyond the range to the largest finite value; NaN stays NaN.
// Non-saturating casts follow the formats' own overflow: e4m3 -> NaN, e5m2 and f16 -> infinity.
// Format definitions: Micikevicius et al. 2022 (arXiv:2209.05433), OCP OFP8 v1.0.
#pragma once
#include <cstdint>
#if !defined(__CUDACC__)
#include <cmath>
#include <cstring>
#endif

#if defined(__CUDACC__)
#define FP8_HD __host__ __device__ __forceinline__
#else
// Static: a copy in each translation unit, as units are compiled with different instruction sets (see cpu-backend/native/vec.h).
#define FP8_HD static inline
#endif

namespace fp8lm {

FP8_HD uint32_t bitsOf(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
#endif
}

FP8_HD float floatOf(uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  float x;
  memcpy(&x, &u, 4);
  return x;
#endif
}

/// Rounds |x| (its bits, sign cleared) to `mantissaBits` with exponent bias `bias`: nearest, ties to even, subnormals
/// included. The result is the code without sign; it may lie beyond the format's largest finite code.
template <int mantissaBits, int bias> FP8_HD uint32_t roundMagnitude(uint32_t abs) {
  constexpr int shift = 23 - mantissaBits;
  constexpr uint32_t minNormal = uint32_t(127 - bias + 1) << 23;
  if (abs < minNormal) {
    // Adding 2^(23 - mantissaBits + 1 - bias) makes the FPU round at the subnormal's last place; its low bits are the code.
    constexpr uint32_t magic = uint32_t(127 + 23 - mantissaBits + 1 - bias) << 23;
    return bitsOf(floatOf(abs) + floatOf(magic)) - magic;
  }
  const uint32_t odd = (abs >> shift) & 1u;
  return (abs + (uint32_t(bias - 127) << 23) + ((1u << (shift - 1)) - 1u) + odd) >> shift;
}

/// Stochastic rounding: adds 23 - mantissaBits random low bits of `random` before truncation, so that the expected
/// value equals x. Subnormals are put on the format's fixed grid first.
template <int mantissaBits, int bias> FP8_HD uint32_t roundMagnitudeStochastic(uint32_t abs, uint32_t random) {
  constexpr int shift = 23 - mantissaBits;
  constexpr uint32_t minNormal = uint32_t(127 - bias + 1) << 23;
  if (abs < minNormal) {
    // Fixed point with 24 fraction bits of the subnormal unit 2^(1 - bias - mantissaBits).
    constexpr uint32_t toUnits = uint32_t(127 + bias + mantissaBits - 1) << 23;
    const float units = floatOf(abs) * floatOf(toUnits);  // exact: a power of two; below 2^mantissaBits
    const uint32_t whole = uint32_t(units);
    const uint32_t fraction = uint32_t((units - float(whole)) * 16777216.0f);
    return whole + (((random >> 8) < fraction) ? 1u : 0u);
  }
  return (abs + (uint32_t(bias - 127) << 23) + (random & ((1u << shift) - 1u))) >> shift;
}

FP8_HD uint8_t encodeE4M3(float x, bool saturate = true) {
  const uint32_t u = bitsOf(x), abs = u & 0x7fffffffu, sign = (u >> 24) & 0x80u;
  if (abs > 0x7f800000u) return uint8_t(sign | 0x7fu);
  const uint32_t code = abs >= 0x7f000000u ? 0x7fu : roundMagnitude<3, 7>(abs);
  return uint8_t(sign | (code > 0x7eu ? (saturate ? 0x7eu : 0x7fu) : code));
}

FP8_HD uint8_t encodeE5M2(float x, bool saturate = true) {
  const uint32_t u = bitsOf(x), abs = u & 0x7fffffffu, sign = (u >> 24) & 0x80u;
  if (abs > 0x7f800000u) return uint8_t(sign | 0x7fu);
  const uint32_t code = abs >= 0x7f000000u ? 0x7cu : roundMagnitude<2, 15>(abs);
  return uint8_t(sign | (code > 0x7bu ? (saturate ? 0x7bu : 0x7cu) : code));
}

FP8_HD uint8_t encodeE4M3Stochastic(float x, uint32_t random, bool saturate = true) {
  const uint32_t u = bitsOf(x), abs = u & 0x7fffffffu, sign = (u >> 24) & 0x80u;
  if (abs > 0x7f800000u) return uint8_t(sign | 0x7fu);
  const uint32_t code = abs >= 0x7f000000u ? 0x7fu : roundMagnitudeStochastic<3, 7>(abs, random);
  return uint8_t(sign | (code > 0x7eu ? (saturate ? 0x7eu : 0x7fu) : code));
}

FP8_HD uint8_t encodeE5M2Stochastic(float x, uint32_t random, bool saturate = true) {
  const uint32_t u = bitsOf(x), abs = u & 0x7fffffffu, sign = (u >> 24) & 0x80u;
  if (abs > 0x7f800000u) return uint8_t(sign | 0x7fu);
  const uint32_t code = abs >= 0x7f000000u ? 0x7cu : roundMagnitudeStochastic<2, 15>(abs, random);
  return uint8_t(sign | (code > 0x7bu ? (saturate ? 0x7bu : 0x7cu) : code));
}

FP8_HD float decodeE4M3(uint8_t code) {
  const uint32_t sign = uint32_t(code & 0x80u) << 24, abs = code & 0x7fu;
  if (abs == 0x7fu) return floatOf(sign | 0x7fc00000u);
  if (abs < 8u) return floatOf(sign | bitsOf(float(abs) * 0.001953125f));  // subnormal: units of 2^-9
  return floatOf(sign | ((abs << 20) + (uint32_t(120) << 23)));
}

FP8_HD float decodeE5M2(uint8_t code) {
  const uint32_t sign = uint32_t(code & 0x80u) << 24, abs = code & 0x7fu;
  if (abs > 0x7cu) return floatOf(sign | 0x7fc00000u);
  if (abs == 0x7cu) return floatOf(sign | 0x7f800000u);
  if (abs < 4u) return floatOf(sign | bitsOf(float(abs) * 1.52587890625e-05f));  // subnormal: units of 2^-16
  return floatOf(sign | ((abs << 21) + (uint32_t(112) << 23)));
}

FP8_HD uint16_t encodeBF16(float x) {
  const uint32_t u = bitsOf(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40u);
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

FP8_HD float decodeBF16(uint16_t code) { return floatOf(uint32_t(code) << 16); }

FP8_HD uint16_t encodeF16(float x, bool saturate = false) {
  const uint32_t u = bitsOf(x), abs = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
  if (abs > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  const uint32_t code = abs >= 0x7f000000u ? 0x7c00u : roundMagnitude<10, 15>(abs);
  return uint16_t(sign | (code > 0x7bffu ? (saturate ? 0x7bffu : 0x7c00u) : code));
}

FP8_HD float decodeF16(uint16_t code) {
  const uint32_t sign = uint32_t(code & 0x8000u) << 16, abs = code & 0x7fffu;
  if (abs >= 0x7c00u) return floatOf(sign | 0x7f800000u | ((abs & 0x3ffu) << 13));
  if (abs < 0x400u) return floatOf(sign | bitsOf(float(abs) * 5.9604644775390625e-08f));
  return floatOf(sign | ((abs << 13) + (uint32_t(112) << 23)));
}

/// The scale for a tensor whose largest magnitude is `amax`: 2^floor(log2(max / amax)), margin 0, always a finite power
/// of two in [2^-126, 2^126]. A zero or non-finite amax keeps `previous` (FP8-LM's rule, without its faults at the ends).
/// The floor is taken on exponents and mantissas, exactly, never through a rounded quotient: with max = m_max * 2^e_max
/// and amax = m * 2^e, it is e_max - e, less one when m > m_max.
FP8_HD float scaleFor(float amax, float max, float previous) {
  uint32_t a = bitsOf(amax);
  if (!(amax > 0.0f) || a >= 0x7f800000u) return previous;
  int shift = 0;
  if (a < 0x00800000u) {  // subnormal amax: normalise by 2^32 first
    a = bitsOf(amax * 4294967296.0f);
    shift = 32;
  }
  const uint32_t m = bitsOf(max);
  int e = int(m >> 23) - int(a >> 23) + shift - ((a & 0x7fffffu) > (m & 0x7fffffu) ? 1 : 0);
  e = e > 126 ? 126 : e < -126 ? -126 : e;
  return floatOf(uint32_t(e + 127) << 23);
}

}  // namespace fp8lm
