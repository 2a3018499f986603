// dropout and random_normal against scalar Philox, to the bit; Philox against the known answers of Random123.
namespace fp8lm::check {

inline void checkRandom() {
  struct Known {
    uint32_t key[2], counter[4], out[4];
  };
  const Known known[] = {{{0, 0}, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
                         {{~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
                         {{0xa4093822, 0x299f31d0},
                          {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                          {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (const Known& k : known) {
    const PhiloxWords r = philox({k.key[0], k.key[1]}, k.counter[0], k.counter[1], k.counter[2], k.counter[3]);
    fact(std::memcmp(r.w, k.out, sizeof r.w) == 0, "philox known answer");
  }
  const int64_t seed = (int64_t(0x1234) << 32) | 0x9abcdef0, stream = (int64_t(3) << 32) | 17;
  // Offsets on both sides of the 2^32 carries of element and block.
  for (int64_t offset : {int64_t(0), int64_t(3), (int64_t(1) << 32) - 50, (int64_t(1) << 34) - 201})
    for (int64_t n : {1, 15, 64, 257, 20003}) {
      const std::string at = " n " + std::to_string(n) + " offset " + std::to_string(offset);
      Buffer y(DType::f32, n);
      random_normal(y.tensor(), n, 0.02, seed, stream, offset);
      bool same = true;
      for (int64_t i = 0; i < n; i++) {
        const PhiloxWords w = philox(philoxKey(uint64_t(seed)), uint64_t(offset + i), uint64_t(stream));
        double sum = -524280;
        for (uint32_t word : w.w) sum += 2 * (double(word & 0xffff) + double(word >> 16));
        const float unit = float(0.5 / std::sqrt(8 * (65536.0 * 65536.0 - 1) / 12));
        same = same && y.at<float>(i) == float(sum) * unit * 0.02f;
      }
      fact(same && y.intact(), "random_normal" + at);
      for (double rate : {0.0, 0.1, 0.5, 0.999})
        for (DType type : {DType::f32, DType::bf16})
          for (bool residual : {false, true}) {
            Buffer x(type, n, 5), r(DType::bf16, n, 6), out(type, n), expected(type, n);
            dropout(out.tensor(), x.tensor(), residual ? r.tensor() : kNone, n, rate, seed, stream, offset);
            bool equal = true;
            for (int64_t i = 0; i < n; i++) {
              const uint64_t e = uint64_t(offset + i);
              const uint32_t word = philox(philoxKey(uint64_t(seed)), e >> 2, uint64_t(stream)).w[e & 3];
              float v =
                  double(word) >= std::floor(rate * 4294967296.0) ? float(x.get(i)) * float(1 / (1 - rate)) : 0.0f;
              if (residual) v += float(r.get(i));
              expected.set(i, double(v));
              equal = equal && expected.get(i) == out.get(i);
            }
            fact(equal && out.intact() && x.intact() && r.intact(), "dropout rate " + std::to_string(rate) + at);
            dropout(x.tensor(), x.tensor(), residual ? r.tensor() : kNone, n, rate, seed, stream, offset);
            fact(x.bytes == out.bytes, "dropout in place" + at);
          }
    }
  // Moments of 2^20 values: each within 5 standard errors.
  const int64_t n = 1 << 20;
  Buffer y(DType::f32, n);
  random_normal(y.tensor(), n, 1.0, 7, 0, 0);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (int64_t i = 0; i < n; i++) {
    const double x = y.get(i);
    m1 += x / double(n), m2 += x * x / double(n), m3 += x * x * x / double(n), m4 += x * x * x * x / double(n);
  }
  fact(std::fabs(m1) < 5e-3 && std::fabs(m2 - 1) < 7e-3 && std::fabs(m3) < 0.012,
       "random_normal: mean 0, variance 1, no skew");
  fact(std::fabs(m4 - 2.85) < 0.05, "random_normal: fourth moment 3 - 6/5/8");
}

}  // namespace fp8lm::check
