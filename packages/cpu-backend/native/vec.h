// Sixteen floats at a time on every instruction set. A kernel body is written once against F32 and I32 and compiled three
// times; the compiler flags of the file that includes it choose the namespace and the registers behind a value:
//
//   avx512   one 16-float register      (F, BW, DQ, VL)
//   avx2     two 8-float registers      (AVX2, FMA, F16C)
//   generic  four 4-float registers     (the compiler's baseline, SSE2 on x86-64)
//
// A value has 16 lanes everywhere, so a reduction adds the same numbers in the same order on every instruction set, and
// kernels that avoid mulAdd, recip and exp give the same bits on all three. Memory types: float, BF16, F16, E4M3, E5M2;
// load and store convert like float8.h, to the bit (kernels_bench --check-casts tries all 2^32 floats).
//
// Translation units with their own flags must not emit code that the linker could share with others: no standard
// library here, everything is always_inline, float8.h is static.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
// GCC 12 warns of its own "undefined vector" idiom in these headers (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "../../fp8-kernels/native/float8.h"
#include "../../fp8-kernels/native/math.h"
#include "../../fp8-kernels/native/tensor.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FP8_VEC avx512
#define FP8_VEC_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FP8_VEC avx2
#define FP8_VEC_AVX2 1
#else
#define FP8_VEC generic
#define FP8_VEC_GENERIC 1
#endif
#define FP8_INLINE inline __attribute__((always_inline))
#define FP8_LAMBDA __attribute__((always_inline))

namespace fp8lm::FP8_VEC {

constexpr int kLanes = 16;

// --- memory types ------------------------------------------------------------------------------------------------------
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

// --- registers ---------------------------------------------------------------------------------------------------------
#if FP8_VEC_AVX512
constexpr int kWidth = 16;
#elif FP8_VEC_AVX2
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float vf __attribute__((vector_size(4 * kWidth)));
typedef int32_t vi __attribute__((vector_size(4 * kWidth)));
typedef uint32_t vu __attribute__((vector_size(4 * kWidth)));
typedef double vd __attribute__((vector_size(4 * kWidth)));

FP8_INLINE vf splat(float x) { return x - vf{}; }
FP8_INLINE vi splat(int32_t x) { return x - vi{}; }

/// Sixteen values of type V's element: `p` holds the registers in lane order.
template <class V> struct Lanes {
#if FP8_VEC_AVX512
  V a;
#elif FP8_VEC_AVX2
  V a, b;
#else
  V a, b, c, d;
#endif
};

/// out = f(registers of each argument), register by register.
#if FP8_VEC_AVX512
#define FP8_MAP1(f, x) {f((x).a)}
#define FP8_MAP2(f, x, y) {f((x).a, (y).a)}
#define FP8_MAP3(f, x, y, z) {f((x).a, (y).a, (z).a)}
#elif FP8_VEC_AVX2
#define FP8_MAP1(f, x) {f((x).a), f((x).b)}
#define FP8_MAP2(f, x, y) {f((x).a, (y).a), f((x).b, (y).b)}
#define FP8_MAP3(f, x, y, z) {f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b)}
#else
#define FP8_MAP1(f, x) {f((x).a), f((x).b), f((x).c), f((x).d)}
#define FP8_MAP2(f, x, y) {f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)}
#define FP8_MAP3(f, x, y, z) \
  {f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c), f((x).d, (y).d, (z).d)}
#endif

struct F32 : Lanes<vf> {
  F32() = default;
#if FP8_VEC_AVX512
  FP8_INLINE F32(vf a_) { a = a_; }
  FP8_INLINE explicit F32(float x) { a = splat(x); }
#elif FP8_VEC_AVX2
  FP8_INLINE F32(vf a_, vf b_) { a = a_, b = b_; }
  FP8_INLINE explicit F32(float x) { a = b = splat(x); }
#else
  FP8_INLINE F32(vf a_, vf b_, vf c_, vf d_) { a = a_, b = b_, c = c_, d = d_; }
  FP8_INLINE explicit F32(float x) { a = b = c = d = splat(x); }
#endif
};

struct I32 : Lanes<vi> {
  I32() = default;
#if FP8_VEC_AVX512
  FP8_INLINE I32(vi a_) { a = a_; }
  FP8_INLINE explicit I32(int32_t x) { a = splat(x); }
#elif FP8_VEC_AVX2
  FP8_INLINE I32(vi a_, vi b_) { a = a_, b = b_; }
  FP8_INLINE explicit I32(int32_t x) { a = b = splat(x); }
#else
  FP8_INLINE I32(vi a_, vi b_, vi c_, vi d_) { a = a_, b = b_, c = c_, d = d_; }
  FP8_INLINE explicit I32(int32_t x) { a = b = c = d = splat(x); }
#endif
};

// --- operations on one register ----------------------------------------------------------------------------------------
namespace reg {
FP8_INLINE vf add(vf x, vf y) { return x + y; }
FP8_INLINE vf sub(vf x, vf y) { return x - y; }
FP8_INLINE vf mul(vf x, vf y) { return x * y; }
FP8_INLINE vf div(vf x, vf y) { return x / y; }
FP8_INLINE vi iadd(vi x, vi y) { return (vi)((vu)x + (vu)y); }
FP8_INLINE vi isub(vi x, vi y) { return (vi)((vu)x - (vu)y); }
FP8_INLINE vi iand(vi x, vi y) { return x & y; }
FP8_INLINE vi ior(vi x, vi y) { return x | y; }
FP8_INLINE vi ixor(vi x, vi y) { return x ^ y; }
FP8_INLINE vi greater(vf x, vf y) { return x > y; }
FP8_INLINE vi igreater(vi x, vi y) { return x > y; }
FP8_INLINE vi iequal(vi x, vi y) { return x == y; }
FP8_INLINE vf pick(vi mask, vf x, vf y) { return mask ? x : y; }
FP8_INLINE vi ipick(vi mask, vi x, vi y) { return mask ? x : y; }
FP8_INLINE vi bits(vf x) { return (vi)x; }
FP8_INLINE vf floats(vi x) { return (vf)x; }
FP8_INLINE vf toFloat(vi x) { return __builtin_convertvector(x, vf); }
#if FP8_VEC_AVX512
FP8_INLINE vf sqrt(vf x) { return _mm512_sqrt_ps(x); }
FP8_INLINE vf min(vf x, vf y) { return _mm512_min_ps(x, y); }
FP8_INLINE vf max(vf x, vf y) { return _mm512_max_ps(x, y); }
FP8_INLINE vi imax(vi x, vi y) { return (vi)_mm512_max_epi32((__m512i)x, (__m512i)y); }
FP8_INLINE vi imin(vi x, vi y) { return (vi)_mm512_min_epi32((__m512i)x, (__m512i)y); }
FP8_INLINE vf mulAdd(vf x, vf y, vf z) { return _mm512_fmadd_ps(x, y, z); }
FP8_INLINE vf roundEven(vf x) { return _mm512_roundscale_ps(x, 8); }
FP8_INLINE vi toInt(vf x) { return (vi)_mm512_cvtps_epi32(x); }
FP8_INLINE vf scalePow2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
FP8_INLINE vf recip(vf x) {
  const vf y = _mm512_rcp14_ps(x);  // 14 bits, then one Newton step
  return _mm512_fmadd_ps(y, _mm512_fnmadd_ps(x, y, splat(1.0f)), y);
}
#else
#if FP8_VEC_AVX2
FP8_INLINE vf sqrt(vf x) { return _mm256_sqrt_ps(x); }
FP8_INLINE vf min(vf x, vf y) { return _mm256_min_ps(x, y); }
FP8_INLINE vf max(vf x, vf y) { return _mm256_max_ps(x, y); }
FP8_INLINE vi imax(vi x, vi y) { return (vi)_mm256_max_epi32((__m256i)x, (__m256i)y); }
FP8_INLINE vi imin(vi x, vi y) { return (vi)_mm256_min_epi32((__m256i)x, (__m256i)y); }
FP8_INLINE vf mulAdd(vf x, vf y, vf z) { return _mm256_fmadd_ps(x, y, z); }
FP8_INLINE vf roundEven(vf x) { return _mm256_round_ps(x, 8); }
FP8_INLINE vi toInt(vf x) { return (vi)_mm256_cvtps_epi32(x); }
#else
#if defined(__SSE2__)
FP8_INLINE vf sqrt(vf x) { return _mm_sqrt_ps(x); }
FP8_INLINE vf min(vf x, vf y) { return _mm_min_ps(x, y); }
FP8_INLINE vf max(vf x, vf y) { return _mm_max_ps(x, y); }
FP8_INLINE vi toInt(vf x) { return (vi)_mm_cvtps_epi32(x); }
#else
FP8_INLINE vf sqrt(vf x) {
  return vf{__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]), __builtin_sqrtf(x[3])};
}
FP8_INLINE vf min(vf x, vf y) { return x < y ? x : y; }
FP8_INLINE vf max(vf x, vf y) { return x > y ? x : y; }
FP8_INLINE vi toInt(vf x) { return (vi)(x + splat(12582912.0f)) - splat(0x4b400000); }
#endif
FP8_INLINE vi imax(vi x, vi y) { return x > y ? x : y; }
FP8_INLINE vi imin(vi x, vi y) { return x < y ? x : y; }
FP8_INLINE vf mulAdd(vf x, vf y, vf z) { return x * y + z; }
FP8_INLINE vf roundEven(vf x) { return (x + splat(12582912.0f)) - splat(12582912.0f); }
#endif
FP8_INLINE vf recip(vf x) { return splat(1.0f) / x; }
FP8_INLINE vf scalePow2(vf x, vf n) {
  const vi whole = toInt(n), half = whole >> 1;  // in two factors, so that neither leaves the normal range
  return x * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}
#endif
template <int n> FP8_INLINE vi shiftLeft(vi x) { return (vi)((vu)x << n); }
template <int n> FP8_INLINE vi shiftRight(vi x) { return (vi)((vu)x >> n); }
}  // namespace reg

// --- operations on sixteen lanes ---------------------------------------------------------------------------------------
FP8_INLINE F32 add(F32 x, F32 y) { return FP8_MAP2(reg::add, x, y); }
FP8_INLINE F32 sub(F32 x, F32 y) { return FP8_MAP2(reg::sub, x, y); }
FP8_INLINE F32 mul(F32 x, F32 y) { return FP8_MAP2(reg::mul, x, y); }
FP8_INLINE F32 div(F32 x, F32 y) { return FP8_MAP2(reg::div, x, y); }
FP8_INLINE F32 sqrt(F32 x) { return FP8_MAP1(reg::sqrt, x); }
FP8_INLINE F32 mulAdd(F32 x, F32 y, F32 z) { return FP8_MAP3(reg::mulAdd, x, y, z); }
FP8_INLINE F32 recip(F32 x) { return FP8_MAP1(reg::recip, x); }
FP8_INLINE F32 roundEven(F32 x) { return FP8_MAP1(reg::roundEven, x); }
FP8_INLINE F32 scalePow2(F32 x, F32 n) { return FP8_MAP2(reg::scalePow2, x, n); }
/// The smaller (larger) of the two; the second if either is NaN.
FP8_INLINE F32 min(F32 x, F32 y) { return FP8_MAP2(reg::min, x, y); }
FP8_INLINE F32 max(F32 x, F32 y) { return FP8_MAP2(reg::max, x, y); }
FP8_INLINE F32 atMost(F32 x, F32 c) { return min(c, x); }
FP8_INLINE F32 atLeast(F32 x, F32 c) { return max(c, x); }
FP8_INLINE F32 operator+(F32 x, F32 y) { return add(x, y); }
FP8_INLINE F32 operator-(F32 x, F32 y) { return sub(x, y); }
FP8_INLINE F32 operator*(F32 x, F32 y) { return mul(x, y); }
FP8_INLINE F32 operator/(F32 x, F32 y) { return div(x, y); }

FP8_INLINE I32 operator+(I32 x, I32 y) { return FP8_MAP2(reg::iadd, x, y); }
FP8_INLINE I32 operator-(I32 x, I32 y) { return FP8_MAP2(reg::isub, x, y); }
FP8_INLINE I32 operator&(I32 x, I32 y) { return FP8_MAP2(reg::iand, x, y); }
FP8_INLINE I32 operator|(I32 x, I32 y) { return FP8_MAP2(reg::ior, x, y); }
FP8_INLINE I32 operator^(I32 x, I32 y) { return FP8_MAP2(reg::ixor, x, y); }
FP8_INLINE I32 max(I32 x, I32 y) { return FP8_MAP2(reg::imax, x, y); }
FP8_INLINE I32 min(I32 x, I32 y) { return FP8_MAP2(reg::imin, x, y); }
template <int n> FP8_INLINE I32 shiftLeft(I32 x) { return FP8_MAP1(reg::shiftLeft<n>, x); }
template <int n> FP8_INLINE I32 shiftRight(I32 x) { return FP8_MAP1(reg::shiftRight<n>, x); }

/// Lane masks: -1 where true, 0 where false (an ordered comparison: false on NaN).
FP8_INLINE I32 operator>(F32 x, F32 y) { return FP8_MAP2(reg::greater, x, y); }
FP8_INLINE I32 operator>(I32 x, I32 y) { return FP8_MAP2(reg::igreater, x, y); }
FP8_INLINE I32 operator==(I32 x, I32 y) { return FP8_MAP2(reg::iequal, x, y); }
FP8_INLINE F32 pick(I32 mask, F32 x, F32 y) { return FP8_MAP3(reg::pick, mask, x, y); }
FP8_INLINE I32 pick(I32 mask, I32 x, I32 y) { return FP8_MAP3(reg::ipick, mask, x, y); }

/// x <= limit in every lane; false if any is NaN.
FP8_INLINE bool allAtMost(F32 x, float limit) {
#if FP8_VEC_AVX512
  return _mm512_cmp_ps_mask(x.a, splat(limit), _CMP_NLE_UQ) == 0;
#elif FP8_VEC_AVX2
  const vf y = splat(limit);
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, y, _CMP_NLE_UQ), _mm256_cmp_ps(x.b, y, _CMP_NLE_UQ))) == 0;
#else
  const vf y = splat(limit);
  const vi ok = (x.a <= y) & (x.b <= y) & (x.c <= y) & (x.d <= y);
  return (ok[0] & ok[1] & ok[2] & ok[3]) != 0;
#endif
}

FP8_INLINE I32 bitsOf(F32 x) { return FP8_MAP1(reg::bits, x); }
FP8_INLINE F32 floatOf(I32 x) { return FP8_MAP1(reg::floats, x); }
FP8_INLINE F32 toFloat(I32 x) { return FP8_MAP1(reg::toFloat, x); }
FP8_INLINE F32 abs(F32 x) { return floatOf(bitsOf(x) & I32(0x7fffffff)); }

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

// --- tails: the first `count` (0..16) lanes ----------------------------------------------------------------------------
template <class T> FP8_INLINE F32 loadTail(const T* p, int64_t count) {
  T buffer[kLanes] = {};
  memcpy(static_cast<void*>(buffer), p, size_t(count) * sizeof(T));
  return load(buffer);
}

template <class T> FP8_INLINE void storeTail(T* p, F32 x, int64_t count) {
  T buffer[kLanes];
  store(buffer, x);
  memcpy(static_cast<void*>(p), buffer, size_t(count) * sizeof(T));
}

/// body(i, kLanes) for each full vector of [begin, end), then body(i, rest) once if a rest is left. Use with loadAt and
/// storeAt, whose partial forms the compiler drops where `count` is the constant kLanes.
template <class F> FP8_INLINE void forVectors(int64_t begin, int64_t end, F body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, int64_t(kLanes));
  if (i < end) body(i, end - i);
}

template <class T> FP8_INLINE F32 loadAt(const T* p, int64_t i, int64_t count) {
  return count == kLanes ? load(p + i) : loadTail(p + i, count);
}

template <class T> FP8_INLINE void storeAt(T* p, int64_t i, F32 x, int64_t count) {
  if (count == kLanes) store(p + i, x);
  else storeTail(p + i, x, count);
}

/// Zero in all lanes from `count` on.
FP8_INLINE F32 firstLanes(F32 x, int64_t count) {
  if (count == kLanes) return x;
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t i = count; i < kLanes; i++) lanes[i] = 0.0f;
  return load(lanes);
}

/// Asks for the line `bytes` ahead of p. The hardware's own prefetch stops at each 4 KiB, which halves the speed of a loop
/// over few streams.
FP8_INLINE void prefetch(const void* p, int64_t bytes = 2048) { __builtin_prefetch(static_cast<const char*>(p) + bytes); }

// --- reductions over the lanes, in one order on every instruction set ---------------------------------------------------
FP8_INLINE float sumLanes(F32 x) {
  float y[kLanes];
  store(y, x);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) y[i] += y[i + half];
  return y[0];
}

/// The largest lane; NaN anywhere may or may not win.
FP8_INLINE float maxLanes(F32 x) {
  float y[kLanes];
  store(y, x);
  for (int i = 1; i < kLanes; i++) y[0] = y[i] > y[0] ? y[i] : y[0];
  return y[0];
}

FP8_INLINE int32_t maxLanes(I32 x) {
  int32_t y[kLanes];
  store(y, x);
  for (int i = 1; i < kLanes; i++) y[0] = y[i] > y[0] ? y[i] : y[0];
  return y[0];
}

FP8_INLINE int64_t sumLanes(I32 x) {
  int32_t y[kLanes];
  store(y, x);
  int64_t sum = 0;
  for (int i = 0; i < kLanes; i++) sum += y[i];
  return sum;
}

/// Sixteen float64 accumulators.
struct F64 {
  vd v[kLanes * 2 / kWidth] = {};
};

namespace reg {
#if FP8_VEC_AVX512
FP8_INLINE vd lower(vf x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
FP8_INLINE vd upper(vf x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
#elif FP8_VEC_AVX2
FP8_INLINE vd lower(vf x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
FP8_INLINE vd upper(vf x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
#else
FP8_INLINE vd lower(vf x) { return vd{x[0], x[1]}; }
FP8_INLINE vd upper(vf x) { return vd{x[2], x[3]}; }
#endif
}  // namespace reg

FP8_INLINE F64 toDouble(F32 x) {
#if FP8_VEC_AVX512
  return {{reg::lower(x.a), reg::upper(x.a)}};
#elif FP8_VEC_AVX2
  return {{reg::lower(x.a), reg::upper(x.a), reg::lower(x.b), reg::upper(x.b)}};
#else
  return {{reg::lower(x.a), reg::upper(x.a), reg::lower(x.b), reg::upper(x.b), reg::lower(x.c), reg::upper(x.c),
           reg::lower(x.d), reg::upper(x.d)}};
#endif
}

FP8_INLINE F64 operator+(F64 x, F64 y) {
  F64 z;
  for (int i = 0; i < kLanes * 2 / kWidth; i++) z.v[i] = x.v[i] + y.v[i];
  return z;
}

FP8_INLINE F64 operator*(F64 x, F64 y) {
  F64 z;
  for (int i = 0; i < kLanes * 2 / kWidth; i++) z.v[i] = x.v[i] * y.v[i];
  return z;
}

FP8_INLINE double sumLanes(F64 x) {
  double y[kLanes];
  memcpy(y, &x, sizeof y);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) y[i] += y[i + half];
  return y[0];
}

}  // namespace fp8lm::FP8_VEC
