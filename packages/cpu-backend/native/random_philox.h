// Many Philox blocks at once: the same words as philox.h, for the kernels that need them by the million.
//
// Each 64-bit lane carries one block; the four state words live in the low halves of four registers. The high halves
// may hold rubbish between rounds: the 32x32 -> 64-bit multiply ignores them. Lane l works on block l / 2 + (l odd ?
// lanes / 2 : 0), so that the two interleaves at the end leave the words of all blocks in memory order, without a
// permutation.
#pragma once
#include "philox.h"
#include "vec.h"

namespace fp8lm::FP8_VEC {

#if FP8_VEC_AVX512
using PReg = __m512i;
constexpr int kPhiloxLanes = 8;
FP8_INLINE PReg lanesOf(uint64_t x) { return _mm512_set1_epi64(int64_t(x)); }
FP8_INLINE PReg loadLanes(const uint64_t* p) { return _mm512_loadu_si512(p); }
FP8_INLINE void storeLanes(uint32_t* p, PReg x) { _mm512_storeu_si512(p, x); }
FP8_INLINE PReg addLanes(PReg a, PReg b) { return _mm512_add_epi64(a, b); }
FP8_INLINE PReg mulLanes(PReg a, PReg b) { return _mm512_mul_epu32(a, b); }
FP8_INLINE PReg xorLanes(PReg a, PReg b, PReg c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
FP8_INLINE PReg highLanes(PReg a) { return _mm512_srli_epi64(a, 32); }
/// Low halves of a, then of b, in each 64-bit lane.
FP8_INLINE PReg pairLanes(PReg a, PReg b) { return _mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64(b, 32)); }
FP8_INLINE PReg evenLanes(PReg a, PReg b) { return _mm512_unpacklo_epi64(a, b); }
FP8_INLINE PReg oddLanes(PReg a, PReg b) { return _mm512_unpackhi_epi64(a, b); }
#elif FP8_VEC_AVX2
using PReg = __m256i;
constexpr int kPhiloxLanes = 4;
FP8_INLINE PReg lanesOf(uint64_t x) { return _mm256_set1_epi64x(int64_t(x)); }
FP8_INLINE PReg loadLanes(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const PReg*>(p)); }
FP8_INLINE void storeLanes(uint32_t* p, PReg x) { _mm256_storeu_si256(reinterpret_cast<PReg*>(p), x); }
FP8_INLINE PReg addLanes(PReg a, PReg b) { return _mm256_add_epi64(a, b); }
FP8_INLINE PReg mulLanes(PReg a, PReg b) { return _mm256_mul_epu32(a, b); }
FP8_INLINE PReg xorLanes(PReg a, PReg b, PReg c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
FP8_INLINE PReg highLanes(PReg a) { return _mm256_srli_epi64(a, 32); }
FP8_INLINE PReg pairLanes(PReg a, PReg b) { return _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa); }
FP8_INLINE PReg evenLanes(PReg a, PReg b) { return _mm256_unpacklo_epi64(a, b); }
FP8_INLINE PReg oddLanes(PReg a, PReg b) { return _mm256_unpackhi_epi64(a, b); }
#elif defined(__SSE2__)
using PReg = __m128i;
constexpr int kPhiloxLanes = 2;
FP8_INLINE PReg lanesOf(uint64_t x) { return _mm_set1_epi64x(int64_t(x)); }
FP8_INLINE PReg loadLanes(const uint64_t* p) { return _mm_loadu_si128(reinterpret_cast<const PReg*>(p)); }
FP8_INLINE void storeLanes(uint32_t* p, PReg x) { _mm_storeu_si128(reinterpret_cast<PReg*>(p), x); }
FP8_INLINE PReg addLanes(PReg a, PReg b) { return _mm_add_epi64(a, b); }
FP8_INLINE PReg mulLanes(PReg a, PReg b) { return _mm_mul_epu32(a, b); }
FP8_INLINE PReg xorLanes(PReg a, PReg b, PReg c) { return _mm_xor_si128(_mm_xor_si128(a, b), c); }
FP8_INLINE PReg highLanes(PReg a) { return _mm_srli_epi64(a, 32); }
FP8_INLINE PReg pairLanes(PReg a, PReg b) {
  return _mm_or_si128(_mm_and_si128(a, _mm_set1_epi64x(0xffffffff)), _mm_slli_epi64(b, 32));
}
FP8_INLINE PReg evenLanes(PReg a, PReg b) { return _mm_unpacklo_epi64(a, b); }
FP8_INLINE PReg oddLanes(PReg a, PReg b) { return _mm_unpackhi_epi64(a, b); }
#else
#define FP8_PHILOX_SCALAR
constexpr int kPhiloxLanes = 1;
#endif

/// Writes the words of blocks first .. first + kPhiloxLanes - 1 (4 * kPhiloxLanes words, in order).
FP8_INLINE void philoxGroup(PhiloxKey key, uint64_t first, uint64_t stream, uint32_t* out) {
#if defined(FP8_PHILOX_SCALAR)
  const PhiloxWords r = philox(key, first, stream);
  for (int i = 0; i < 4; i++) out[i] = r.w[i];
#else
  uint64_t order[kPhiloxLanes];
  for (int l = 0; l < kPhiloxLanes; l++) order[l] = uint64_t(l >> 1) + (l & 1 ? kPhiloxLanes / 2 : 0);
  const PReg m0 = lanesOf(kPhiloxM0), m1 = lanesOf(kPhiloxM1);
  PReg c0 = addLanes(lanesOf(first), loadLanes(order)), c1 = highLanes(c0);
  PReg c2 = lanesOf(stream), c3 = lanesOf(stream >> 32);
  for (int round = 0; round < kPhiloxRounds; round++) {
    const PReg p0 = mulLanes(c0, m0), p1 = mulLanes(c2, m1);
    c0 = xorLanes(highLanes(p1), c1, lanesOf(key.k0));
    c1 = p1;
    c2 = xorLanes(highLanes(p0), c3, lanesOf(key.k1));
    c3 = p0;
    key.k0 += kPhiloxW0;
    key.k1 += kPhiloxW1;
  }
  const PReg w01 = pairLanes(c0, c1), w23 = pairLanes(c2, c3);
  storeLanes(out, evenLanes(w01, w23));
  storeLanes(out + 2 * kPhiloxLanes, oddLanes(w01, w23));
#endif
}

/// The words of `blocks` blocks from `first` on; `out` has room for `blocks` rounded up to kPhiloxLanes.
FP8_INLINE void philoxBlocks(PhiloxKey key, uint64_t first, uint64_t stream, int64_t blocks, uint32_t* out) {
  for (int64_t b = 0; b < blocks; b += kPhiloxLanes) philoxGroup(key, first + uint64_t(b), stream, out + 4 * b);
}

}  // namespace fp8lm::FP8_VEC
