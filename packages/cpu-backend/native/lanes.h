// F32 and I32, sixteen floats or integers in the registers of the instruction set at hand, and their arithmetic.
// vec.h has the idea.
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

}  // namespace fp8lm::FP8_VEC
