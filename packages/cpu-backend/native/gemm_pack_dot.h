// Packing for the dot variant: panels of bf16 pairs (k even low, k odd high) straight from the stored bytes, with AVX-512
// VBMI. gemm_pack.h, which goes by way of floats, needs three to six times the instructions an element.
//
// FP8: the magnitude of a code is an index into two tables of 128 bytes, the low and the high byte of its bf16 (vpermi2b reads
// seven bits of the index, so the sign falls away and is put back with one operation); unpacking low with high bytes makes words.
// unpack works inside 128-bit lanes, so the codes are first laid such that its results come out in order.
// bf16 along K: a pair is a dword as stored. f32 and f16 are rounded while loaded, and go on as bf16.
// Ragged ends are masked loads.
#pragma once
#include <immintrin.h>

#include "gemm_pack.h"

namespace fp8lm {

using I512 = __m512i;

template <Kind kind> struct Fp8Bytes {
  alignas(64) uint8_t low[128], high[128];
  Fp8Bytes() {
    for (int code = 0; code < 128; ++code) {
      const uint16_t b = encodeBF16(kind == kE4m3 ? decodeE4M3(uint8_t(code)) : decodeE5M2(uint8_t(code)));
      low[code] = uint8_t(b);
      high[code] = uint8_t(b >> 8);
    }
  }
  static const Fp8Bytes& get() {
    static const Fp8Bytes table;
    return table;
  }
};

/// Where permutex2var finds the columns of two steps of k, as loaded, for each vector of `Pairs::mix`.
struct MixOrder {
  alignas(64) uint8_t codes[2][64]{};
  alignas(64) uint16_t words[2][32]{};
  constexpr MixOrder() {
    for (int v = 0; v < 2; ++v) {
      for (int i = 0; i < 64; ++i) {  // lane L: columns 4L .. 4L + 3, then 16 + 4L ..; each even, odd
        const int lane = i / 16, at = i % 16, column = 32 * v + at / 8 * 16 + 4 * lane + at % 8 / 2;
        codes[v][i] = uint8_t(column + at % 2 * 64);
      }
      for (int i = 0; i < 32; ++i) words[v][i] = uint16_t(16 * v + i / 2 + i % 2 * 32);
    }
  }
};
constexpr MixOrder kMixOrder;

/// Turns stored bytes into vectors of 16 bf16 pairs. One object a packing call: it holds the tables in registers.
template <Kind kind> struct Pairs {
  static constexpr bool fp8 = kind == kE4m3 || kind == kE5m2;
  I512 low0, low1, high0, high1, order, mix0, mix1;

  FP8_INLINE Pairs() {
    if constexpr (fp8) {
      const Fp8Bytes<kind>& t = Fp8Bytes<kind>::get();
      low0 = _mm512_load_si512(t.low), low1 = _mm512_load_si512(t.low + 64);
      high0 = _mm512_load_si512(t.high), high1 = _mm512_load_si512(t.high + 64);
      // In a 128-bit lane of dwords c0 c1 c2 c3: the pairs c0 c1 of four rows, then their pairs c2 c3.
      order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
      mix0 = _mm512_load_si512(kMixOrder.codes[0]), mix1 = _mm512_load_si512(kMixOrder.codes[1]);
    } else {
      mix0 = _mm512_load_si512(kMixOrder.words[0]), mix1 = _mm512_load_si512(kMixOrder.words[1]);
    }
  }

  /// 64 codes, laid as unpack wants them, to two vectors of words.
  FP8_INLINE void decode(I512 codes, I512* out) const {
    const I512 low = _mm512_permutex2var_epi8(low0, codes, low1);
    const I512 magnitude = _mm512_permutex2var_epi8(high0, codes, high1);
    const I512 high = _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(char(0x80)), 0xf8);  // | (codes & sign)
    out[0] = _mm512_unpacklo_epi8(low, high);
    out[1] = _mm512_unpackhi_epi8(low, high);
  }

  /// `count` <= 64 / min(bytes, 2) elements as dwords: bf16 pairs, or four codes each.
  static FP8_INLINE I512 load(const char* p, int64_t count) {
    const auto mask = [](int64_t n, int64_t most) { return n >= most ? ~uint64_t(0) : n <= 0 ? 0 : (uint64_t(1) << n) - 1; };
    if constexpr (fp8) return _mm512_maskz_loadu_epi8(mask(count, 64), p);
    else if constexpr (kind == kBf16) return _mm512_maskz_loadu_epi16(__mmask32(mask(count, 32)), p);
    else if constexpr (kind == kF32AsBf16)
      return (I512)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(__mmask16(mask(count - 16, 16)), p + 64),
                                       _mm512_maskz_loadu_ps(__mmask16(mask(count, 16)), p));
    else {
      const I512 h = _mm512_maskz_loadu_epi16(__mmask32(mask(count, 32)), p);
      return (I512)_mm512_cvtne2ps_pbh(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1)), _mm512_cvtph_ps(_mm512_castsi512_si256(h)));
    }
  }
  static constexpr int perLoad = fp8 ? 64 : 32;

  /// Columns of two steps of k, as loaded, to perLoad / 16 vectors of pairs.
  FP8_INLINE void mix(I512 even, I512 odd, I512* out) const {
    if constexpr (fp8) {
      decode(_mm512_permutex2var_epi8(even, mix0, odd), out);
      decode(_mm512_permutex2var_epi8(even, mix1, odd), out + 2);
    } else {
      out[0] = _mm512_permutex2var_epi16(even, mix0, odd);
      out[1] = _mm512_permutex2var_epi16(even, mix1, odd);
    }
  }
};

/// 16 rows x perLoad steps of k from `rows` on. `full`: all rows and steps are there.
template <class S, Kind kind, int P, bool full>
FP8_INLINE void packDotSquare(const Pairs<kind>& pairs, const char* source, int64_t rowBytes, const PanelWriter<S, P>& writer, int64_t k,
                              int64_t rows, int64_t count) {
  using F = typename S::F;
  F v[16];
  FP8_UNROLL for (int i = 0; i < 16; ++i)
    v[i] = full || i < rows ? (F)pairs.load(source + i * rowBytes, full ? Pairs<kind>::perLoad : count) : F{};
  S::transpose(v);
  FP8_UNROLL for (int i = 0; i < 16; ++i) {
    if constexpr (Pairs<kind>::fp8) {
      I512 out[2];
      pairs.decode(_mm512_shuffle_epi8((I512)v[i], pairs.order), out);
      if (full || 4 * i < count) writer.write(k / 2 + 2 * i, (F)out[0]);
      if (full || 4 * i + 2 < count) writer.write(k / 2 + 2 * i + 1, (F)out[1]);
    } else {
      if (full || 2 * i < count) writer.write(k / 2 + i, v[i]);
    }
  }
}

template <class S, Kind kind, int P>
void packDotAlongK(const void* source, int64_t ld, int64_t mn, int64_t k, uint32_t* panels) {
  constexpr int steps = Pairs<kind>::perLoad;
  constexpr int64_t bytes = bytesOf(kind);
  const Pairs<kind> pairs;
  const int64_t dwords = (k + 1) / 2, rowBytes = ld * bytes;
  for (int64_t g = 0, groups = groupsOf<S, P>(mn); g < groups; ++g) {
    const int64_t rows = mn - g * 16;
    const PanelWriter<S, P> writer(panels, g, dwords, rows);
    const char* base = static_cast<const char*>(source) + g * 16 * rowBytes;
    int64_t k0 = 0;
    if (rows >= 16)
      for (; k0 + steps <= k; k0 += steps) packDotSquare<S, kind, P, true>(pairs, base + k0 * bytes, rowBytes, writer, k0, 16, steps);
    for (; k0 < k; k0 += steps) packDotSquare<S, kind, P, false>(pairs, base + k0 * bytes, rowBytes, writer, k0, rows, k - k0);
  }
}

template <class S, Kind kind, int P>
void packDotAlongMn(const void* source, int64_t ld, int64_t mn, int64_t k, uint32_t* panels) {
  using F = typename S::F;
  constexpr int per = Pairs<kind>::perLoad / 16;
  constexpr int64_t bytes = bytesOf(kind), kBlock = 32;
  const Pairs<kind> pairs;
  const int64_t dwords = (k + 1) / 2, rowBytes = ld * bytes;
  for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
    const int64_t k1 = k0 + kBlock < k ? k0 + kBlock : k;
    for (int64_t g = 0, groups = groupsOf<S, P>(mn); g < groups; g += per) {
      const int64_t columns = mn - g * 16, here = groups - g < per ? groups - g : per;
      const char* base = static_cast<const char*>(source) + g * 16 * bytes;
      PanelWriter<S, P> writers[per];
      FP8_UNROLL for (int i = 0; i < per; ++i) writers[i] = PanelWriter<S, P>(panels, g + (i < here ? i : 0), dwords, columns - i * 16);
      if (columns >= 16 * per && k1 - k0 == kBlock) {
        for (int64_t kk = k0; kk < k1; kk += 2) {
          I512 out[per];
          pairs.mix(pairs.load(base + kk * rowBytes, 16 * per), pairs.load(base + (kk + 1) * rowBytes, 16 * per), out);
          FP8_UNROLL for (int i = 0; i < per; ++i) writers[i].write(kk / 2, (F)out[i]);
        }
        continue;
      }
      for (int64_t kk = k0; kk < k1; kk += 2) {
        I512 out[per];
        pairs.mix(pairs.load(base + kk * rowBytes, columns), kk + 1 < k1 ? pairs.load(base + (kk + 1) * rowBytes, columns) : I512{}, out);
        for (int i = 0; i < here; ++i) writers[i].write(kk / 2, (F)out[i]);
      }
    }
  }
}

}  // namespace fp8lm
