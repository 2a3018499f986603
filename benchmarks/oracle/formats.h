// The narrow float formats by their definition alone: an oracle that shares no code and no method with float8.h.
//
// A code's value is sign * 2^(e - bias) * (1 + m / 2^mantissa), or 2^(1 - bias) * m / 2^mantissa where e = 0, in
// float64, where all of it is exact. Rounding a float32 means finding the nearest value of that table, ties to the
// even code. The rounding is monotone, so the answer over all float32 patterns in rising order is a staircase:
// `Staircase` holds the first pattern of every code, which makes the exhaustive comparison a fill and a memcmp.
// `Table::nearest` is the literal search; the two are compared with each other around every step before either is
// believed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace oracle {

struct Format {
  const char* name;
  int exponentBits, mantissaBits, bias;
  bool hasInfinity;         // IEEE-like top exponent; otherwise only the all-ones code is NaN
  uint32_t canonicalNan;    // the code our encoders give for NaN, without sign
  int keptNanPayloadShift;  // bf16 keeps the payload's upper bits: how far to shift them down; 0 = canonical NaN only

  int bits() const { return 1 + exponentBits + mantissaBits; }
  uint32_t signBit() const { return 1u << (bits() - 1); }
  uint32_t maxFinite() const {
    return hasInfinity ? (((1u << exponentBits) - 1) << mantissaBits) - 1 : signBit() - 2;
  }
  uint32_t overflow() const { return maxFinite() + 1; }  // infinity, or the NaN of a format without one
};

constexpr Format e4m3{"e4m3", 4, 3, 7, false, 0x7f, 0};
constexpr Format e5m2{"e5m2", 5, 2, 15, true, 0x7f, 0};
constexpr Format f16{"f16", 5, 10, 15, true, 0x7e00, 0};
constexpr Format bf16{"bf16", 8, 7, 127, true, 0x7fc0, 16};

/// The number a code without sign stands for, taken as if the top codes were numbers too (they bound the last
/// interval).
inline double magnitude(const Format& f, uint32_t code) {
  const int e = int(code >> f.mantissaBits), m = int(code & ((1u << f.mantissaBits) - 1));
  return e == 0 ? std::ldexp(double(m), 1 - f.bias - f.mantissaBits)
                : std::ldexp(double((1 << f.mantissaBits) + m), e - f.bias - f.mantissaBits);
}

/// The float64 value of any code, NaN and infinity included.
inline double value(const Format& f, uint32_t code) {
  const uint32_t abs = code & (f.signBit() - 1);
  const double sign = code & f.signBit() ? -1.0 : 1.0;
  if (abs <= f.maxFinite()) return sign * magnitude(f, abs);
  const bool infinite = f.hasInfinity && abs == f.overflow();
  return sign * (infinite ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN());
}

inline float floatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline uint32_t bitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

/// The code of a NaN pattern, without sign.
inline uint32_t nanCode(const Format& f, uint32_t abs) {
  if (f.keptNanPayloadShift == 0) return f.canonicalNan;
  return (abs >> f.keptNanPayloadShift) | (1u << (f.mantissaBits - 1));  // quiet bit set
}

/// The format's values in rising order, codes without sign, the first one beyond the range included.
struct Table {
  Format format;
  std::vector<double> values;

  explicit Table(const Format& f) : format(f) {
    for (uint32_t code = 0; code <= f.overflow(); code++) values.push_back(magnitude(f, code));
  }

  /// The code of a float32 pattern by search: the last value at or below |x|, then a comparison with the midpoint
  /// above it.
  uint32_t nearest(uint32_t pattern, bool saturate) const {
    const Format& f = format;
    const uint32_t abs = pattern & 0x7fffffffu, sign = pattern >> 31 ? f.signBit() : 0;
    if (abs > 0x7f800000u) return sign | nanCode(f, abs);
    const double x = double(floatOf(abs));
    uint32_t code = 0;
    while (code < f.maxFinite() && values[code + 1] <= x) code++;
    const double middle = (values[code] + values[code + 1]) / 2;
    if (x > middle || (x == middle && (code & 1))) code++;
    if (code > f.maxFinite()) code = saturate ? f.maxFinite() : f.overflow();
    return sign | code;
  }
};

/// first[c] is the smallest positive float32 pattern that rounds to code c or beyond; first[overflow()] starts
/// overflow.
struct Staircase {
  Format format;
  std::vector<uint32_t> first;

  explicit Staircase(const Format& f) : format(f), first(f.overflow() + 1) {
    for (uint32_t code = 1; code <= f.overflow(); code++) {
      // A midpoint has one mantissa bit more than the format, so it is itself a float32 (bf16's last one is 2^128 -
      // 2^119).
      const double middle = (magnitude(f, code - 1) + magnitude(f, code)) / 2;
      first[code] = bitsOf(float(middle)) + (code & 1);  // the tie belongs to the even neighbour
    }
  }

  /// The codes of the patterns start, start + stride, ... (count of them, within one sign) into out.
  template <class Code> void fill(uint64_t start, uint64_t stride, size_t count, bool saturate, Code* out) const {
    const Format& f = format;
    const uint32_t sign = start >> 31 ? f.signBit() : 0;
    const uint64_t base = start & 0x7fffffffu;
    uint32_t code = uint32_t(std::upper_bound(first.begin(), first.end(), base) - first.begin()) - 1;
    size_t i = 0;
    while (i < count && code < f.overflow()) {
      const uint64_t next = first[code + 1];
      const size_t end = base + i * stride >= next ? i : std::min<size_t>(count, (next - base + stride - 1) / stride);
      std::fill(out + i, out + end, Code(sign | code));
      i = end;
      if (i < count) code++;
    }
    const Code beyond = Code(sign | (saturate ? f.maxFinite() : f.overflow()));
    for (; i < count && base + i * stride <= 0x7f800000u; i++) out[i] = beyond;
    for (; i < count; i++) out[i] = Code(sign | nanCode(f, uint32_t(base + i * stride)));
  }
};

}  // namespace oracle
