// Philox4x32-10, the counter-based random generator of every kernel that needs random bits: dropout, stochastic
// rounding, random_normal. The bits of an element depend on (key, counter) alone, never on who computes it or in what
// order, so the CPU and the CUDA backend, one thread or many, one rank or eight, draw the same numbers.
//
// One call turns a 128-bit counter into four 32-bit words by ten rounds of two 32x32 -> 64-bit products.
// Who uses which counter (e = offset + index of the element):
//   random_normal         (e lo, e hi, stream lo, stream hi)             all 128 bits make one normal value
//   dropout               (e / 4 lo, hi, stream lo, stream hi)           word e % 4
//   stochastic rounding   (i / 4 lo, hi, 0x5352, 0)                      word i % 4
// Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; constants as in their Random123.
#pragma once
#include "float8.h"

namespace fp8lm {

constexpr uint32_t kPhiloxM0 = 0xd2511f53u, kPhiloxM1 = 0xcd9e8d57u;  // multipliers
constexpr uint32_t kPhiloxW0 = 0x9e3779b9u, kPhiloxW1 = 0xbb67ae85u;  // key increments a round
constexpr int kPhiloxRounds = 10;

struct PhiloxKey {
  uint32_t k0, k1;
};

struct PhiloxWords {
  uint32_t w[4];
};

/// The key of a 64-bit seed: (seed mod 2^32, floor(seed / 2^32)).
FP8_HD PhiloxKey philoxKey(uint64_t seed) { return PhiloxKey{uint32_t(seed), uint32_t(seed >> 32)}; }

FP8_HD PhiloxWords philox(PhiloxKey key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  for (int round = 0; round < kPhiloxRounds; round++) {
    const uint64_t p0 = uint64_t(kPhiloxM0) * c0, p1 = uint64_t(kPhiloxM1) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ key.k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ key.k1;
    c3 = uint32_t(p0);
    key.k0 += kPhiloxW0;
    key.k1 += kPhiloxW1;
  }
  return PhiloxWords{{c0, c1, c2, c3}};
}

/// The four words of a 64-bit block counter on a 64-bit stream.
FP8_HD PhiloxWords philox(PhiloxKey key, uint64_t block, uint64_t stream) {
  return philox(key, uint32_t(block), uint32_t(block >> 32), uint32_t(stream), uint32_t(stream >> 32));
}

/// The stream of stochastic rounding ("SR").
constexpr uint64_t kRoundingStream = 0x5352u;

/// The smallest word that dropout keeps: an element is kept if its word >= floor(rate * 2^32). 64 bits wide, since
/// rate 1 gives 2^32, which no word reaches.
FP8_HD uint64_t dropoutThreshold(double rate) { return uint64_t(rate * 4294967296.0); }

/// 1 / standard deviation of 2 * (sum of eight uniform u16) - its mean: makes the sum below a unit normal.
/// (float)(0.5 / sqrt(8 * (65536^2 - 1) / 12)).
constexpr float kNormalUnit = 0x1.3988e2p-17f;

/// A near-normal value with deviation 1 from 128 random bits: the centred sum of eight 16-bit uniforms (Irwin-Hall;
/// excess kurtosis -0.15, |value| < 4.9). Integer sums and one rounding: no log, cos or sqrt whose last bit could
/// differ.
FP8_HD float philoxNormal(const PhiloxWords& r) {
  uint32_t sum = 0;
  for (int i = 0; i < 4; i++) sum += (r.w[i] & 0xffffu) + (r.w[i] >> 16);
  return float(int32_t(2 * sum) - 524280) * kNormalUnit;
}

}  // namespace fp8lm
