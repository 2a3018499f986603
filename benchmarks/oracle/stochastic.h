// Stochastic rounding: a value between two codes goes up for exactly the share of random words that its distance from
// the lower code demands. The encoder compares random bits with the discarded fraction, so over the words that differ
// in their relevant bits it must go up for a contiguous share of them. The share is counted, not sampled: over all
// 2^20 (e4m3) or 2^21 (e5m2) words of the normal range when `full`, else (and for subnormals, where 24 bits count)
// over 2^14 or 2^16 evenly spread words, where the boundary may fall anywhere between two of them.
#pragma once
#include <vector>

#include "../../packages/fp8-kernels/native/float8.h"
#include "formats.h"
#include "tally.h"

namespace oracle {

inline std::vector<Tally> checkStochastic(bool full) {
  std::vector<Tally> tallies;
  for (const Format& f : {e4m3, e5m2}) {
    Tally tally{std::string("float8.h stochastic ") + f.name, "share rounded up"};
    const Table table(f);
    const auto encode = f.mantissaBits == 3 ? fp8lm::encodeE4M3Stochastic : fp8lm::encodeE5M2Stochastic;
    for (uint32_t code = 0; code < f.maxFinite(); code++) {
      const double low = table.values[code], high = table.values[code + 1];
      const bool normal = low >= std::ldexp(1.0, 1 - f.bias);
      const int relevant = normal ? 23 - f.mantissaBits : 32;
      const int bits = full ? (normal ? relevant : 16) : 14;
      const uint32_t words = 1u << bits, step = 1u << (relevant - bits);
      for (const double part : {0.0, 1.0 / 64, 0.2718, 0.5, 0.9990}) {
        const float x = float(low + part * (high - low));
        const double share = (double(x) - low) / (high - low);
        uint32_t up = 0, outside = 0;
        for (uint32_t w = 0; w < words; w++) {
          const uint32_t got = encode(x, w * step, true);
          up += got == code + 1;
          outside += got != code && got != code + 1;
        }
        tally.checked++;
        const double slack = bits == relevant || share == 0 ? 0.0 : 1.0;  // a representable value never moves
        if (outside || std::fabs(up - share * words) > slack) tally.compare(bitsOf(x), up, ~uint32_t(share * words));
      }
    }
    // At the largest finite value and beyond the range: what the deterministic cast gives, whatever the word.
    for (const uint32_t p : {bitsOf(float(table.values[f.maxFinite()])), bitsOf(float(table.values[f.overflow()])),
                             0x7f7fffffu, 0x7f800000u, 0x7fc00000u}) {
      for (const uint32_t pattern : {p, p | 0x80000000u}) {
        for (const bool saturate : {true, false}) {
          for (const uint32_t word : {0u, 0x7fffffffu, 0xffffffffu}) {
            tally.checked++;
            tally.compare(pattern, encode(floatOf(pattern), word, saturate), table.nearest(pattern, saturate));
          }
        }
      }
    }
    tallies.push_back(tally);
  }
  return tallies;
}

}  // namespace oracle
