// FP8 codes in 16-bit lanes, 32 at once, for groups whose codes are all normal numbers: nearly all groups of real tensors, and
// half the instructions of exactF8 (group.h), which takes any value in range. A word is a stored bf16 or f16; rounding is an integer
// sum and a shift. Floats are better off with exactF8: making words of them costs what the shorter way saves (docs/log.md).
#pragma once
#include "group.h"

namespace fp8lm::FP8_VEC {

inline bool isPowerOfTwo(float x) {
  const uint32_t u = fp8lm::bitsOf(x);
  return (u & 0x7fffffu) == 0 && u >= (uint32_t(127 - 80) << 23) && u <= (uint32_t(127 + 80) << 23);
}

#if FP8_VEC_AVX512
/// From words with `mantissa` bits of mantissa to codes of Y.
template <class Y, int mantissa> struct Words {
  static constexpr int kept = isSame<Y, E4M3> ? 3 : 2, smallest = isSame<Y, E4M3> ? -6 : -14, largest = isSame<Y, E4M3> ? 8 : 15;
  static constexpr int drop = mantissa - kept, top = mantissa == 7 ? 254 : 30;  // top: the largest exponent field of a number
  static constexpr int kGain = (1 << (drop - 1)) - 1 + (1 << mantissa);
  bool usable;
  __m512i low, span;  // the magnitudes from `low` on, `span` of them and one, have normal codes

  /// `one`: the exponent field of a word whose code is that of 1.
  FP8_INLINE explicit Words(int one) : usable(one + smallest >= 1 && one + smallest < top) {
    if (!usable) one = -smallest;
    const int first = (one + smallest) << mantissa, last = (one + largest) << mantissa | 3 << (mantissa - 2);
    const int finite = (top + 1) << mantissa;
    low = _mm512_set1_epi16(int16_t(first));
    span = _mm512_set1_epi16(int16_t((last < finite ? last : finite - 1) - first));
  }

  /// 32 codes with zeros between them; `good` loses the bits of those that are wrong.
  FP8_INLINE __m512i half(__m512i words, __m512i magnitudes, __mmask32& good) const {
    const __m512i x = _mm512_sub_epi16(magnitudes, low);
    good &= _mm512_cmple_epu16_mask(x, span);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(x, drop), _mm512_set1_epi16(1));
    const __m512i code = _mm512_srli_epi16(_mm512_add_epi16(_mm512_add_epi16(x, odd), _mm512_set1_epi16(kGain)), drop);
    return _mm512_ternarylogic_epi32(_mm512_set1_epi16(0x7f), code, _mm512_srli_epi16(words, 8), 0xca);
  }

  /// The codes of 64 words, if all are normal.
  FP8_INLINE bool encode(__m512i w0, __m512i w1, __m512i a0, __m512i a1, __m512i& codes) const {
    __mmask32 good = ~__mmask32(0);
    const __m512i c0 = half(w0, a0, good), c1 = half(w1, a1, good);
    codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi16(c0, c1));
    return good == ~__mmask32(0);
  }
};

constexpr int kMagnitude16 = 0x7fff;

template <class Y, class X>
constexpr bool recodes = (isSame<Y, E4M3> || isSame<Y, E5M2>)&&(isSame<X, BF16> || isSame<X, F16>);
#else
template <class Y, class X> constexpr bool recodes = false;
#endif

/// FP8 codes straight from stored bf16 or f16, where the scales are powers of two. `on` goes out where too many codes are not
/// normal. Here: from other types, never.
template <class Y, class X, bool = recodes<Y, X>> struct Recode {
  static constexpr bool on = false;
  FP8_INLINE Recode(float, float) {}
};

#if FP8_VEC_AVX512
template <class Y, class X> struct Recode<Y, X, true> {
  static constexpr int mantissa = isSame<X, F16> ? 10 : 7;
  Words<Y, mantissa> words;
  bool on;
  int misses = 0;  // eight for a group that was tried in vain, less one for a success
  __m512i largest = _mm512_setzero_si512();

  static FP8_INLINE int exponentOf(float x) { return int(fp8lm::bitsOf(x) >> 23) - 127; }
  FP8_INLINE Recode(float scaleInv, float scale)
      : words((mantissa == 7 ? 127 : 15) - exponentOf(scale) - (isScaled<X> ? exponentOf(scaleInv) : 0)),
        on(words.usable && isPowerOfTwo(scale) && (!isScaled<X> || isPowerOfTwo(scaleInv))) {}

  /// The codes of x[0 .. 63], if all are normal.
  FP8_INLINE bool encode(const X* x, __m512i& codes) {
    const __m512i w0 = loadRegister<__m512i>(x), w1 = loadRegister<__m512i>(x + 32), mask = _mm512_set1_epi16(kMagnitude16);
    const __m512i a0 = _mm512_and_si512(w0, mask), a1 = _mm512_and_si512(w1, mask);
    if (!words.encode(w0, w1, a0, a1, codes)) {
      misses += 8;
      on = misses < 256;
      return false;
    }
    misses -= misses > 0;
    largest = _mm512_max_epu16(largest, _mm512_max_epu16(a0, a1));
    return true;
  }

  /// Bits of the largest magnitude that was encoded.
  FP8_INLINE I32 magnitude(float scaleInv) const {
    const __m512i folded = _mm512_max_epu16(largest, _mm512_srli_epi32(largest, 16));
    const I32 word = I32((vi)_mm512_and_si512(folded, _mm512_set1_epi32(0xffff)));
    const uint32_t most = uint32_t(maxLanes(word));
    if constexpr (isSame<X, F16>) return I32(int32_t(fp8lm::bitsOf(decodeF16(uint16_t(most)) * scaleInv)));
    else return I32(int32_t(most << 16));
  }
};
#endif

}  // namespace fp8lm::FP8_VEC
