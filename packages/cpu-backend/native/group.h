// Sixty-four values at a time, for loops bound by instructions: one line of fp8 codes is converted as a whole, and casts
// leave out what their caller has ruled out (values out of range, NaN).
#pragma once
#include "vec.h"

namespace fp8lm::FP8_VEC {

constexpr int kGroup = 64;

struct Group {
  F32 v[4];
};

/// loadGroup gives stored value / rawFactor<T>, a power of two to be folded into the tensor's scale.
#if FP8_VEC_AVX512
template <class T> constexpr float rawFactor = isSame<T, E4M3> ? 256.0f : 1.0f;
#else
template <class T> constexpr float rawFactor = 1.0f;
#endif

/// Remembers whether an e4m3 NaN went by: loadGroup may turn it into a number. In other formats NaN stays NaN.
template <class T> struct NanWatch {
#if FP8_VEC_AVX512
  __m512i largest = _mm512_setzero_si512();
  FP8_INLINE void see(__m512i codes) { largest = _mm512_max_epu8(largest, _mm512_and_si512(codes, _mm512_set1_epi8(0x7f))); }
  FP8_INLINE bool seen() const { return _mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(0x7f)) != 0; }
#else
  FP8_INLINE bool seen() const { return false; }
#endif
};

template <class T> FP8_INLINE Group loadGroup(const T* p, NanWatch<T>& watch) {
#if FP8_VEC_AVX512
  if constexpr (isSame<T, E4M3>) {
    watch.see(loadRegister<__m512i>(p));
    Group y;
    for (int k = 0; k < 2; k++) {
      // s s eeee mmm 0000000 without the lower sign bit: the code at F16's place, which is the value / 256.
      const __m512i wide = _mm512_cvtepi8_epi16(loadRegister<__m256i>(p + 32 * k));
      const __m512i half = _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(int16_t(0xbf80)));
      y.v[2 * k] = F32((vf)_mm512_cvtph_ps(_mm512_castsi512_si256(half)));
      y.v[2 * k + 1] = F32((vf)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)));
    }
    return y;
  }
#endif
  (void)watch;
  return {{load(p), load(p + 16), load(p + 32), load(p + 48)}};
}

#if FP8_VEC_AVX512
/// The fp8 code of each lane, the value being finite and in range, in a register whose upper bits are zero.
template <class T> FP8_INLINE __m512i exactF8(F32 x) {
  constexpr int mantissaBits = isSame<T, E4M3> ? 3 : 2, bias = isSame<T, E4M3> ? 7 : 15, shift = 23 - mantissaBits;
  constexpr int32_t minNormal = (127 - bias + 1) << 23;  // the rest as in roundCode
  const I32 u = bitsOf(x), exponent = max(u & I32(0x7f800000), I32(minNormal));
  const I32 sum = bitsOf(abs(x) + floatOf(exponent + I32((shift << 23) + (-(minNormal >> shift) & 0x7f))));
  const I32 code = sum + shiftRight<shift>(exponent);
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7f), (__m512i)code.a, (__m512i)shiftRight<24>(u).a, 0xca);
}
#endif

#if FP8_VEC_AVX512
template <bool stream> FP8_INLINE void storeCodes(void* p, __m512i codes) {
  if (stream && (reinterpret_cast<uintptr_t>(p) & 63) == 0) _mm512_stream_si512(static_cast<__m512i*>(p), codes);
  else memcpy(p, &codes, 64);
}
#endif

/// Stores values known to be finite and within the range of T (f32 and bf16: any value). stream: fp8 goes past the caches, where
/// p is aligned to 64; `streamed` after the last.
template <class T, bool stream = false> FP8_INLINE void storeGroup(T* p, const Group& x) {
#if FP8_VEC_AVX512
  if constexpr (sizeof(T) == 1) {
    const __m512i ab = _mm512_packus_epi32(exactF8<T>(x.v[0]), exactF8<T>(x.v[1]));
    const __m512i cd = _mm512_packus_epi32(exactF8<T>(x.v[2]), exactF8<T>(x.v[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    storeCodes<stream>(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(ab, cd)));
    return;
  }
  if constexpr (isSame<T, F16>) {
    for (int k = 0; k < 4; k++) {
      const __m256i y = _mm512_cvtps_ph(x.v[k].a, 0);
      memcpy(static_cast<void*>(p + 16 * k), &y, 32);
    }
    return;
  }
#endif
  for (int k = 0; k < 4; k++) store(p + 16 * k, x.v[k]);
}

/// Makes streamed stores visible to other threads before what follows.
FP8_INLINE void streamed() {
#if FP8_VEC_AVX512
  _mm_sfence();
#endif
}

template <class T> FP8_INLINE Group loadGroup(const T* p) {
  return {{load(p), load(p + 16), load(p + 32), load(p + 48)}};
}

/// sink.put of f(i, count), the values at i ..., over [begin, end): by groups, then by vectors.
template <class S, class F> FP8_INLINE void emit(S& sink, int64_t begin, int64_t end, int64_t offset, F f) {
  int64_t i = begin;
  for (; i + kGroup <= end; i += kGroup)
    sink.putGroup(offset + i, Group{{f(i, int64_t(kLanes)), f(i + 16, int64_t(kLanes)), f(i + 32, int64_t(kLanes)), f(i + 48, int64_t(kLanes))}});
  forVectors(i, end, [&](int64_t j, int64_t count) FP8_LAMBDA { sink.put(offset + j, f(j, count), count); });
}

/// Copies one group's bytes, past the caches where `stream` (to: 64-byte aligned): for data that is rarely read again.
template <class T> FP8_INLINE void copyGroup(void* to, const void* from, bool stream) {
#if FP8_VEC_AVX512
  if (stream) {
    for (size_t k = 0; k < sizeof(T); k++)
      _mm512_stream_si512(static_cast<__m512i*>(to) + k, loadRegister<__m512i>(static_cast<const char*>(from) + 64 * k));
    return;
  }
#endif
  (void)stream;
  memcpy(to, from, kGroup * sizeof(T));
}

}  // namespace fp8lm::FP8_VEC
