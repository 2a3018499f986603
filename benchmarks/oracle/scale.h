// scaleFor(amax, max) must be 2^floor(log2(max / amax)): the largest power of two s within 2^-126..2^126 with
// amax * s <= max. Products of a float32 with such a power are exact in float64, so the two inequalities that define s
// are checked directly, without a logarithm or a quotient.
#pragma once
#include <vector>

#include "../../packages/fp8-kernels/native/float8.h"
#include "formats.h"
#include "tally.h"

namespace oracle {

inline std::vector<Tally> checkScales(uint64_t stride) {
  const float previous = 3.5f;  // no power of two: a kept scale cannot be mistaken for a computed one
  std::vector<Tally> tallies;
  for (const Format& f : {e4m3, e5m2, f16}) {
    Tally tally{std::string("float8.h scaleFor ") + f.name, "inequalities in float64"};
    const float max = float(magnitude(f, f.maxFinite()));
    auto check = [&](uint32_t pattern) {
      const float amax = floatOf(pattern);
      const float scale = fp8lm::scaleFor(amax, max, previous);
      tally.checked++;
      if (!(amax > 0) || std::isinf(amax)) return tally.compare(pattern, bitsOf(scale), bitsOf(previous));
      const uint32_t bits = bitsOf(scale), exponent = bits >> 23;
      const bool power = (bits & 0x807fffffu) == 0 && exponent >= 1 && exponent <= 253;
      const bool fits = double(amax) * double(scale) <= double(max);
      const bool largest = exponent == 253 || double(amax) * double(scale) * 2 > double(max);
      if (!(power && fits && largest)) tally.compare(pattern, bits, ~bits);
    };
    // 0, the smallest and largest subnormal and normal, infinity, NaNs, and the negatives of all (an amax is never
    // negative).
    for (const uint32_t p : {0u, 1u, 2u, 0x007fffffu, 0x00800000u, 0x00800001u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u,
                             0x7fc00000u, 0x7fffffffu}) {
      check(p);
      check(p | 0x80000000u);
    }
    // Where the floor steps: amax = max / 2^k and its neighbours, subnormals included.
    for (int k = -130; k <= 150; k++) {
      const uint32_t centre = bitsOf(float(std::ldexp(double(max), -k)));
      for (int d = -3; d <= 3; d++) check(centre + uint32_t(d));
    }
    uint64_t state = 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < (stride == 1 ? 10000000 : 1000000); i++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      check(uint32_t(state >> 32));
    }
    tallies.push_back(tally);
  }
  return tallies;
}

}  // namespace oracle
