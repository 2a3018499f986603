// Stored codes as 32-bit words, for kernels that keep many of them in registers: a word holds one f32, two of a two-byte
// format, four of a one-byte one. Conversions are those of the hardware where it has them; their bits are those of float8.h.
#pragma once
#include "formats.h"

namespace fp8lm {

using Words = Vec<uint32_t>;  // 16 bytes

template <DType D> constexpr int kPerWord = 4 / int(sizeof(Code<D>));

template <DType D> __device__ __forceinline__ void decodeWord(uint32_t w, float* v) {
  if constexpr (D == DType::f32) {
    v[0] = floatOf(w);
  } else if constexpr (D == DType::bf16) {
    v[0] = floatOf(w << 16);
    v[1] = floatOf(w & 0xffff0000u);
  } else if constexpr (D == DType::f16) {
    decodeHalves(w, v);
  } else {
    decodeFp8Pair<D == DType::e4m3>(w & 0xffffu, v);
    decodeFp8Pair<D == DType::e4m3>(w >> 16, v + 2);
  }
}

/// Rounds to nearest even; saturates what has a scale, as Form::encode.
template <DType D> __device__ __forceinline__ uint32_t encodeWord(const float* v) {
  if constexpr (D == DType::f32) return bitsOf(v[0]);
  else if constexpr (D == DType::bf16) return bf16Pair(v[0], v[1]);
  else if constexpr (D == DType::f16) return halfPair(v[0], v[1]);
  else return fp8Pair<D == DType::e4m3>(v[0], v[1]) | fp8Pair<D == DType::e4m3>(v[2], v[3]) << 16;
}

/// G neighbours in registers, in 16-byte loads and stores.
template <DType D, int G> struct Pack {
  static constexpr int kCount = G / kPerWord<D>;
  static_assert(kCount % 4 == 0, "whole vectors of 16 bytes");
  uint32_t w[kCount];

  __device__ __forceinline__ void load(const Ptr<const Code<D>> p, int64_t i) {
#pragma unroll
    for (int k = 0; k < kCount; k += 4) {
      const Words in = loadWords(p, i + k * kPerWord<D>);
#pragma unroll
      for (int q = 0; q < 4; q++) w[k + q] = in.v[q];
    }
  }
  __device__ __forceinline__ void store(const Ptr<Code<D>> p, int64_t i) const {
#pragma unroll
    for (int k = 0; k < kCount; k += 4) {
      Words out;
#pragma unroll
      for (int q = 0; q < 4; q++) out.v[q] = w[k + q];
      storeWords(p, i + k * kPerWord<D>, out);
    }
  }
  /// Elements 4 quad to 4 quad + 3.
  __device__ __forceinline__ void decode(int quad, float (&v)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; k += kPerWord<D>) decodeWord<D>(w[(4 * quad + k) / kPerWord<D>], v + k);
  }
  __device__ __forceinline__ void encode(int quad, const float (&v)[4]) {
#pragma unroll
    for (int k = 0; k < 4; k += kPerWord<D>) w[(4 * quad + k) / kPerWord<D>] = encodeWord<D>(v + k);
  }
};

}  // namespace fp8lm
