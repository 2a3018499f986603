// Elements as they are stored, in 32-bit words, and the way between them and float32: with the chip's own conversions where
// it has them (bf16 and f16 from sm_80, FP8 from sm_89), else with float8.h. Both give float8.h's bits for every float32, but
// that the chip has no negative NaN in FP8 (nor has a product on it, and scaled values are products).
//
//   Packed<D, N>         N elements of dtype D
//   unpack, pack         to and from N floats
//   smallerOf(x, c)      the smaller of x and a constant, or NaN
#pragma once
#include "device.h"

namespace fp8lm {

template <DType D, int N> struct Packed {
  static constexpr int kWords = N * int(bytesOf(D)) / 4;
  uint32_t w[kWords];
};

#if defined(__CUDA_ARCH__)
/// Whether one of the halves is a NaN, as bf16Pair and halfPair give it: 0x7fff.
template <DType D, int W> __device__ __forceinline__ bool anyNaN(const uint32_t (&w)[W]) {
  uint32_t m = w[0];
#pragma unroll
  for (int k = 1; k < W; k++) {
    if constexpr (D == DType::bf16) asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(m) : "r"(m), "r"(w[k]));
    else asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(m) : "r"(m), "r"(w[k]));
  }
  return (m & 0xffffu) == 0x7fffu || m >> 16 == 0x7fffu;
}
#endif

template <DType D, int N> __device__ __forceinline__ void unpack(const Packed<D, N>& p, float (&v)[N]) {
  if constexpr (D == DType::f32) {
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = floatOf(p.w[k]);
  } else if constexpr (D == DType::bf16) {
#pragma unroll
    for (int k = 0; k < N; k += 2) v[k] = floatOf(p.w[k / 2] << 16), v[k + 1] = floatOf(p.w[k / 2] & 0xffff0000u);
  } else if constexpr (D == DType::f16) {
#pragma unroll
    for (int k = 0; k < N; k += 2) decodeHalves(p.w[k / 2], v + k);
  } else {
#pragma unroll
    for (int k = 0; k < N; k += 2) decodeFp8Pair<D == DType::e4m3>(p.w[k / 4] >> (k % 4 * 8) & 0xffffu, v + k);
  }
}

/// Rounds to nearest, ties to even; f16, e4m3 and e5m2 saturate.
template <DType D, int N> __device__ __forceinline__ Packed<D, N> pack(const float (&v)[N]) {
  Packed<D, N> p;
  if constexpr (D == DType::f32) {
#pragma unroll
    for (int k = 0; k < N; k++) p.w[k] = bitsOf(v[k]);
  } else if constexpr (D == DType::bf16 || D == DType::f16) {
#if defined(__CUDA_ARCH__)
#pragma unroll
    for (int k = 0; k < N; k += 2) p.w[k / 2] = D == DType::bf16 ? bf16Pair(v[k], v[k + 1]) : halfPair(v[k], v[k + 1]);
    // The sign and payload of a NaN are float8.h's, not the chip's.
    if (!anyNaN<D>(p.w)) return p;
#endif
#pragma unroll
    for (int k = 0; k < N; k += 2) {
      if constexpr (D == DType::bf16) p.w[k / 2] = uint32_t(encodeBF16(v[k])) | uint32_t(encodeBF16(v[k + 1])) << 16;
      else p.w[k / 2] = uint32_t(encodeF16(v[k], true)) | uint32_t(encodeF16(v[k + 1], true)) << 16;
    }
  } else {
#pragma unroll
    for (int k = 0; k < N; k += 4) p.w[k / 4] = fp8Pair<D == DType::e4m3>(v[k], v[k + 1]) | fp8Pair<D == DType::e4m3>(v[k + 2], v[k + 3]) << 16;
  }
  return p;
}

__device__ __forceinline__ float smallerOf(float a, float b) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
#else
  return a > b ? b : a;
#endif
}

}  // namespace fp8lm
