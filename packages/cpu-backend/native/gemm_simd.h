// What the GEMM templates need of a vector of W floats, written with the compilers' vector extensions: Vec<4> is the
// generic variant on any machine; the AVX2 and AVX-512 variants derive from Vec<8> and Vec<16> and replace what the
// compiler does not find by itself (FMA, transposes, half conversion, FP8 decoding by table).
#pragma once
#include <cstdint>
#include <cstring>

#include "../../fp8-kernels/native/float8.h"
#include "gemm_kernels.h"

#define FP8_INLINE inline __attribute__((always_inline))
#define FP8_UNROLL _Pragma("GCC unroll 64")

namespace fp8lm {

// Spelled out for each width: gcc drops a vector_size that depends on a template parameter.
template <int W> struct Lanes;
#define FP8_LANES(W)                                  \
  template <> struct Lanes<W> {                       \
    typedef float F __attribute__((vector_size(W * 4)));    \
    typedef uint32_t U __attribute__((vector_size(W * 4))); \
    typedef uint16_t H __attribute__((vector_size(W * 2))); \
    typedef uint8_t B __attribute__((vector_size(W)));      \
  }
FP8_LANES(4);
FP8_LANES(8);
FP8_LANES(16);
#undef FP8_LANES

template <int W> struct Vec {
  static constexpr int width = W, kUnit = 1;
  using F = typename Lanes<W>::F;  // floats
  using U = typename Lanes<W>::U;  // their bits
  using H = typename Lanes<W>::H;  // W half-width words: bf16 or f16
  using B = typename Lanes<W>::B;  // W bytes: fp8 codes

  template <class T> static FP8_INLINE T get(const void* p) {
    T v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  template <class T> static FP8_INLINE void put(void* p, T v) { memcpy(p, &v, sizeof v); }

  static FP8_INLINE F zero() { return F{}; }
  static FP8_INLINE F set1(float x) { return F{} + x; }
  static FP8_INLINE F add(F a, F b) { return a + b; }
  static FP8_INLINE F mul(F a, F b) { return a * b; }
  static FP8_INLINE F fma(F a, F b, F c) { return a * b + c; }  // two roundings: -ffp-contract=off
  /// A panel dword in all lanes. The ISA variants replace it (and set1) so that gcc loads it by a broadcast.
  static FP8_INLINE F broadcast(const uint32_t* p) { return set1(get<float>(p)); }
  /// One step of the micro-kernel: acc + a * b over one panel dword.
  static FP8_INLINE F mac(F acc, F a, F b) { return acc + a * b; }
  static FP8_INLINE U absMax(U amax, F v) {
    const U bits = (U)v & 0x7fffffffu;
    return bits > amax ? bits : amax;
  }

  // *** conversions ***
  static FP8_INLINE U widen(B b) { return __builtin_convertvector(b, U); }
  static FP8_INLINE F fromBf16(H h) { return (F)(__builtin_convertvector(h, U) << 16); }
  static FP8_INLINE U roundBits(F v) {  // nearest even to the upper 16 bits; NaN stays NaN
    const U u = (U)v, abs = u & 0x7fffffffu;
    return abs > 0x7f800000u ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u);
  }
  static FP8_INLINE F roundBf16(F v) { return (F)(roundBits(v) & 0xffff0000u); }
  static FP8_INLINE H toBf16(F v) { return __builtin_convertvector(roundBits(v) >> 16, H); }
  static FP8_INLINE F fromF16(H h) {
    F v;
    for (int i = 0; i < W; ++i) v[i] = decodeF16(h[i]);
    return v;
  }
  static FP8_INLINE H toF16(F v) {
    H h;
    for (int i = 0; i < W; ++i) h[i] = encodeF16(v[i]);
    return h;
  }
  /// FP8 codes in the top byte of each dword, to floats. Normal codes only need the exponent's bias changed; subnormal
  /// ones get an implicit one by one exponent more, which a subtraction removes exactly.
  static FP8_INLINE F fromE4m3Top(U t) {
    const U sign = t & 0x80000000u, mag = (t << 1 >> 5) & 0x07f00000u;
    const U small = (U)((F)(mag + (121u << 23)) - 0.015625f);
    U c = mag < 0x00800000u ? small : mag + (120u << 23);
    c = mag == 0x07f00000u ? c | 0x7fc00000u : c;
    return (F)(c | sign);
  }
  static FP8_INLINE F fromE5m2Top(U t) {
    const U sign = t & 0x80000000u, mag = (t << 1 >> 4) & 0x0fe00000u;
    const U small = (U)((F)(mag + (113u << 23)) - 6.103515625e-05f);
    U c = mag < 0x00800000u ? small : mag + (112u << 23);
    c = mag >= 0x0f800000u ? c | 0x7f800000u : c;
    return (F)(c | sign);
  }

  template <Kind kind> static FP8_INLINE void expandFp8(U u, F* out) {
    FP8_UNROLL for (int i = 0; i < 4; ++i) {
      const U top = u << (24 - 8 * i);  // lower codes below the top byte do no harm
      if constexpr (kind == kE4m3) out[i] = fromE4m3Top(top);
      else out[i] = fromE5m2Top(top);
    }
  }

  template <Kind kind> static FP8_INLINE void loadLineFp8(const void* p, F* out) {
    FP8_UNROLL for (int i = 0; i < 4; ++i) {
      const U top = widen(get<B>(static_cast<const char*>(p) + i * W)) << 24;
      if constexpr (kind == kE4m3) out[i] = fromE4m3Top(top);
      else out[i] = fromE5m2Top(top);
    }
  }

  // *** panels ***
  static FP8_INLINE void store(uint32_t* p, F v) { put(p, v); }
  /// The upper half first: the caller passes high == low to drop it.
  static FP8_INLINE void storeHalves(uint32_t* low, uint32_t* high, F v) {
    memcpy(high, reinterpret_cast<const char*>(&v) + W * 2, W * 2);
    memcpy(low, &v, W * 2);
  }
  static FP8_INLINE float sum(F v) {
    float s[W];
    memcpy(s, &v, sizeof s);
    for (int step = W / 2; step > 0; step /= 2)
      for (int i = 0; i < step; ++i) s[i] += s[i + step];
    return s[0];
  }
};

/// Elements of a kind in one dword of a K-contiguous row; f16 is converted before the transpose, so it counts as a float.
constexpr int perDword(Kind kind) { return kind < kBf16 ? 1 : kind == kBf16 ? 2 : 4; }

/// W consecutive stored elements as floats.
template <class S, Kind kind> FP8_INLINE typename S::F loadElements(const void* p) {
  using F = typename S::F;
  if constexpr (kind == kF32) return S::template get<F>(p);
  else if constexpr (kind == kF32AsBf16) return S::roundBf16(S::template get<F>(p));
  else if constexpr (kind == kF16) return S::fromF16(S::template get<typename S::H>(p));
  else if constexpr (kind == kF16AsBf16) return S::roundBf16(S::fromF16(S::template get<typename S::H>(p)));
  else if constexpr (kind == kBf16) return S::fromBf16(S::template get<typename S::H>(p));
  else {
    const auto top = S::widen(S::template get<typename S::B>(p)) << 24;
    if constexpr (kind == kE4m3) return S::fromE4m3Top(top);
    else return S::fromE5m2Top(top);
  }
}

/// One vector register's worth of stored bytes (W * 4) holds this many vectors of W elements.
constexpr int perLine(Kind kind) { return int(4 / bytesOf(kind)); }

/// perLine(kind) vectors of floats from W * 4 consecutive bytes: a whole cache line in AVX-512.
template <class S, Kind kind> FP8_INLINE void loadLine(const void* p, typename S::F* out) {
  if constexpr (kind == kE4m3 || kind == kE5m2) S::template loadLineFp8<kind>(p, out);
  else {
    for (int i = 0; i < perLine(kind); ++i)
      out[i] = loadElements<S, kind>(static_cast<const char*>(p) + i * S::width * bytesOf(kind));
  }
}

/// Four vectors of floats from 4 * W consecutive elements, a line at a time (fp8 decodes cheaper in bulk).
template <class S, Kind kind> FP8_INLINE void loadFour(const void* p, typename S::F* out) {
  constexpr int per = perLine(kind);
  FP8_UNROLL for (int i = 0; i < 4; i += per) loadLine<S, kind>(static_cast<const char*>(p) + i * S::width * bytesOf(kind), out + i);
}

/// perDword(kind) vectors of floats from a vector of dwords, lowest element of each dword first.
template <class S, Kind kind> FP8_INLINE void expand(typename S::F dwords, typename S::F* out) {
  using F = typename S::F;
  using U = typename S::U;
  const U u = (U)dwords;
  if constexpr (perDword(kind) == 1) out[0] = dwords;
  else if constexpr (kind == kBf16) {
    out[0] = (F)(u << 16);
    out[1] = (F)(u & 0xffff0000u);
  } else S::template expandFp8<kind>(u, out);
}

}  // namespace fp8lm
