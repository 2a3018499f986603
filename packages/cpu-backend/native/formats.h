// What tensors hold, float, BF16, F16, E4M3, E5M2, sixteen at a time: load and store convert like float8.h, to the bit
// (kernels_bench --check-casts tries all 2^32 floats).
#pragma once
#include "lanes.h"

namespace fp8lm::FP8_VEC {

struct BF16 { uint16_t bits; };
struct F16 { uint16_t bits; };
struct E4M3 { uint8_t bits; };
struct E5M2 { uint8_t bits; };

template <class T, class U> constexpr bool isSame = false;
template <class T> constexpr bool isSame<T, T> = true;

template <class T> constexpr bool isScaled = false;
template <> constexpr bool isScaled<F16> = true;
template <> constexpr bool isScaled<E4M3> = true;
template <> constexpr bool isScaled<E5M2> = true;

// --- loads and stores of full vectors ----------------------------------------------------------------------------------
template <class V> FP8_INLINE V loadRegister(const void* p) {
  V v;
  memcpy(&v, p, sizeof(V));
  return v;
}

FP8_INLINE F32 load(const float* p) {
  F32 y;
  memcpy(&y, p, 64);
  return y;
}

FP8_INLINE I32 load(const int32_t* p) {
  I32 y;
  memcpy(&y, p, 64);
  return y;
}

FP8_INLINE void store(float* p, F32 x) { memcpy(p, &x, 64); }
FP8_INLINE void store(int32_t* p, I32 x) { memcpy(p, &x, 64); }

/// Sixteen u16 or u8 widened to 32 bits, and back (the low bits of each lane; upper bits are dropped).
FP8_INLINE I32 widen16(const void* p) {
#if FP8_VEC_AVX512
  return (vi)_mm512_cvtepu16_epi32(loadRegister<__m256i>(p));
#elif FP8_VEC_AVX2
  const char* c = static_cast<const char*>(p);
  return {(vi)_mm256_cvtepu16_epi32(loadRegister<__m128i>(c)), (vi)_mm256_cvtepu16_epi32(loadRegister<__m128i>(c + 16))};
#else
  typedef uint16_t v4 __attribute__((vector_size(8)));
  const char* c = static_cast<const char*>(p);
  return {__builtin_convertvector(loadRegister<v4>(c), vi), __builtin_convertvector(loadRegister<v4>(c + 8), vi),
          __builtin_convertvector(loadRegister<v4>(c + 16), vi), __builtin_convertvector(loadRegister<v4>(c + 24), vi)};
#endif
}

FP8_INLINE I32 widen8(const void* p) {
#if FP8_VEC_AVX512
  return (vi)_mm512_cvtepu8_epi32(loadRegister<__m128i>(p));
#elif FP8_VEC_AVX2
  const char* c = static_cast<const char*>(p);
  return {(vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(c))),
          (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(c + 8)))};
#else
  typedef uint8_t v4 __attribute__((vector_size(4)));
  const char* c = static_cast<const char*>(p);
  return {__builtin_convertvector(loadRegister<v4>(c), vi), __builtin_convertvector(loadRegister<v4>(c + 4), vi),
          __builtin_convertvector(loadRegister<v4>(c + 8), vi), __builtin_convertvector(loadRegister<v4>(c + 12), vi)};
#endif
}

FP8_INLINE void narrow16(void* p, I32 x) {
#if FP8_VEC_AVX512
  const __m256i y = _mm512_cvtepi32_epi16((__m512i)x.a);
  memcpy(p, &y, 32);
#elif FP8_VEC_AVX2
  const I32 low = x & I32(0xffff);
  const __m256i y = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)low.a, (__m256i)low.b), 0xd8);
  memcpy(p, &y, 32);
#else
  typedef uint16_t v4 __attribute__((vector_size(8)));
  const v4 y[4] = {__builtin_convertvector(x.a, v4), __builtin_convertvector(x.b, v4), __builtin_convertvector(x.c, v4),
                   __builtin_convertvector(x.d, v4)};
  memcpy(p, y, 32);
#endif
}

FP8_INLINE void narrow8(void* p, I32 x) {
#if FP8_VEC_AVX512
  const __m128i y = _mm512_cvtepi32_epi8((__m512i)x.a);
  memcpy(p, &y, 16);
#elif FP8_VEC_AVX2
  const I32 low = x & I32(0xff);
  const __m256i words = _mm256_packus_epi32((__m256i)low.a, (__m256i)low.b);  // lanes 0-3, 8-11 | 4-7, 12-15
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  const __m128i y = _mm_shuffle_epi32(bytes, 0xd8);
  memcpy(p, &y, 16);
#elif defined(__SSE2__)
  const I32 low = x & I32(0xff);
  const __m128i y = _mm_packus_epi16(_mm_packs_epi32((__m128i)low.a, (__m128i)low.b), _mm_packs_epi32((__m128i)low.c, (__m128i)low.d));
  memcpy(p, &y, 16);
#else
  typedef uint8_t v4 __attribute__((vector_size(4)));
  const v4 y[4] = {__builtin_convertvector(x.a, v4), __builtin_convertvector(x.b, v4), __builtin_convertvector(x.c, v4),
                   __builtin_convertvector(x.d, v4)};
  memcpy(p, y, 16);
#endif
}

// --- narrow formats ----------------------------------------------------------------------------------------------------
/// Codes without sign of magnitudes `a` (finite, not beyond the format's range by more than rounding): one rounding, to
/// nearest even, normals and subnormals alike. Adding 2^(e + 23 - mantissaBits), e being the exponent of `a` but not
/// below the format's smallest, leaves the rounded mantissa with its leading one in the low bits of the sum; the
/// exponent field of `a` is then added to it. `offset` in the low bits of the addend removes the exponent bias.
template <int mantissaBits, int bias> FP8_INLINE I32 roundCode(F32 a) {
  constexpr int shift = 23 - mantissaBits;
  constexpr int32_t minNormal = (127 - bias + 1) << 23;
  constexpr int32_t offset = -(minNormal >> shift) & 0x7f;  // even: ties still go to the even code
  const I32 exponent = max(bitsOf(a) & I32(0x7f800000), I32(minNormal));
  const I32 sum = bitsOf(a + floatOf(exponent + I32((shift << 23) + offset)));
  return (sum + shiftRight<shift>(exponent)) & I32(0x7f);
}

/// Saturating codes in the low 8 bits of each lane, the rest zero: 448 (57344) beyond the range, NaN stays NaN.
FP8_INLINE I32 encodeE4M3(F32 x) {
  const I32 u = bitsOf(x), magnitude = u & I32(0x7fffffff);
  const I32 code = roundCode<3, 7>(min(floatOf(magnitude), F32(448.0f)));  // NaN: min gives 448
  return pick(magnitude > I32(0x7f800000), I32(0x7f), code) | (shiftRight<24>(u) & I32(0x80));
}

FP8_INLINE I32 encodeE5M2(F32 x) {
  const I32 u = bitsOf(x), magnitude = u & I32(0x7fffffff);
  const I32 code = roundCode<2, 15>(min(floatOf(magnitude), F32(57344.0f)));
  return pick(magnitude > I32(0x7f800000), I32(0x7f), code) | (shiftRight<24>(u) & I32(0x80));
}

FP8_INLINE I32 encodeBF16(F32 x) {
  const I32 u = bitsOf(x), upper = shiftRight<16>(u);
#if FP8_VEC_AVX512
  const __m512i sum = (__m512i)(u + I32(0x7fff) + (upper & I32(1))).a;
  const __mmask16 nan = _mm512_cmp_ps_mask(x.a, x.a, _CMP_UNORD_Q);
  return (vi)_mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), nan, (__m512i)upper.a, _mm512_set1_epi32(0x40));
#endif
  const I32 rounded = shiftRight<16>(u + I32(0x7fff) + (upper & I32(1)));
  return pick((u & I32(0x7fffffff)) > I32(0x7f800000), upper | I32(0x40), rounded);
}

/// Saturating F16 codes (65504 beyond the range) stored at p. NaN becomes the quiet NaN 0x7e00 with its sign.
FP8_INLINE void storeF16(void* p, F32 x) {
#if FP8_VEC_AVX512 || FP8_VEC_AVX2
  const F32 clamped = atLeast(atMost(x, F32(65504.0f)), F32(-65504.0f));
#if FP8_VEC_AVX512
  __m256i y = _mm512_cvtps_ph(clamped.a, 0);
#else
  __m256i y = _mm256_set_m128i(_mm256_cvtps_ph(clamped.b, 0), _mm256_cvtps_ph(clamped.a, 0));
#endif
  // A NaN keeps payload bits in the conversion; as magnitudes above 0x7c00 they are cut back to 0x7e00.
  const __m256i sign = _mm256_and_si256(y, _mm256_set1_epi16(int16_t(0x8000)));
  y = _mm256_or_si256(_mm256_min_epu16(_mm256_xor_si256(y, sign), _mm256_set1_epi16(0x7e00)), sign);
  memcpy(p, &y, 32);
#else
  const I32 u = bitsOf(x), magnitude = u & I32(0x7fffffff);
  const F32 a = min(floatOf(magnitude), F32(65504.0f));
  const I32 subnormal = bitsOf(a + F32(0.5f)) - I32(0x3f000000);
  const I32 m = bitsOf(a);
  const I32 normal = shiftRight<13>(m + I32(int32_t(0xc8000000u) + 0xfff) + (shiftRight<13>(m) & I32(1)));
  const I32 code = pick(I32(0x38800000) > m, subnormal, normal);
  narrow16(p, pick(magnitude > I32(0x7f800000), I32(0x7e00), code) | (shiftRight<16>(u) & I32(0x8000)));
#endif
}

FP8_INLINE F32 loadF16(const void* p) {
#if FP8_VEC_AVX512
  return (vf)_mm512_cvtph_ps(loadRegister<__m256i>(p));  // (a signalling NaN becomes quiet; our encoders make none)
#elif FP8_VEC_AVX2
  const char* c = static_cast<const char*>(p);
  return {(vf)_mm256_cvtph_ps(loadRegister<__m128i>(c)), (vf)_mm256_cvtph_ps(loadRegister<__m128i>(c + 16))};
#else
  const I32 u = widen16(p), sign = shiftLeft<16>(u & I32(0x8000)), magnitude = u & I32(0x7fff);
  const I32 normal = shiftLeft<13>(magnitude) + I32(112 << 23);
  const I32 subnormal = bitsOf(toFloat(magnitude) * F32(5.9604644775390625e-08f));
  const I32 special = shiftLeft<13>(magnitude & I32(0x3ff)) | I32(0x7f800000);
  return floatOf(sign | pick(I32(0x400) > magnitude, subnormal, pick(magnitude > I32(0x7bff), special, normal)));
#endif
}

/// E4M3 and E5M2 through F16: e4m3 has its exponent 4 bits wide and biased by 8 less, so its code shifted to F16's place
/// is the value / 256; e5m2 is the upper byte of F16.
template <class T> FP8_INLINE F32 loadF8(const void* p) {
  constexpr bool e4 = isSame<T, E4M3>;
#if FP8_VEC_AVX512 || FP8_VEC_AVX2
  const __m256i u = _mm256_cvtepi8_epi16(loadRegister<__m128i>(p));  // s sssssss s mmmmmmm
  const __m256i magnitude = _mm256_and_si256(u, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_and_si256(u, _mm256_set1_epi16(int16_t(0x8000)));
  const __m256i nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(e4 ? 0x7e : 0x7c));
  const __m256i shifted = e4 ? _mm256_slli_epi16(magnitude, 7) : _mm256_slli_epi16(magnitude, 8);
  const __m256i half = _mm256_or_si256(_mm256_blendv_epi8(shifted, _mm256_set1_epi16(0x7e00), nan), sign);
#if FP8_VEC_AVX512
  const F32 y((vf)_mm512_cvtph_ps(half));
#else
  const F32 y((vf)_mm256_cvtph_ps(_mm256_castsi256_si128(half)), (vf)_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)));
#endif
  return e4 ? y * F32(256.0f) : y;
#else
  const I32 u = widen8(p), sign = shiftLeft<24>(u & I32(0x80)), magnitude = u & I32(0x7f);
  const I32 normal = e4 ? shiftLeft<20>(magnitude) + I32(120 << 23) : shiftLeft<21>(magnitude) + I32(112 << 23);
  const I32 subnormal = bitsOf(toFloat(magnitude) * F32(e4 ? 0.001953125f : 1.52587890625e-05f));
  const I32 nan = pick(magnitude == I32(0x7c), I32(e4 ? 0 : 0x7f800000), I32(0x7fc00000));
  const I32 value = pick(I32(e4 ? 8 : 4) > magnitude, subnormal, normal);
  return floatOf(sign | pick(magnitude > I32(e4 ? 0x7e : 0x7b), nan, value));
#endif
}

/// Sixteen values of memory type T at p (unaligned), as stored: without the tensor's scale.
template <class T> FP8_INLINE F32 load(const T* p) {
  if constexpr (isSame<T, BF16>) return floatOf(shiftLeft<16>(widen16(p)));
  else if constexpr (isSame<T, F16>) return loadF16(p);
  else return loadF8<T>(p);
}

template <class T> FP8_INLINE void store(T* p, F32 x) {
  if constexpr (isSame<T, BF16>) narrow16(p, encodeBF16(x));
  else if constexpr (isSame<T, F16>) storeF16(p, x);
  else if constexpr (isSame<T, E4M3>) narrow8(p, encodeE4M3(x));
  else narrow8(p, encodeE5M2(x));
}

}  // namespace fp8lm::FP8_VEC
