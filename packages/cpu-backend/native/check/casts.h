// Checks of the cast group against scalar code written from the contract. Everything here is bit-exact.
#pragma once
#include "../../../fp8-kernels/native/philox.h"
#include "check.h"

namespace check {

inline float amaxOfBox(const Box& x) {
  float a = 0;
  for (int64_t i = 0; i < x.t.size; i++) {
    const float v = std::fabs(x.value(i));
    if (std::isnan(v)) return INFINITY;
    if (v > a) a = v;
  }
  return a;
}

/// y = encode(x * s) with the whole scale block, element by element.
inline void expectStore(Box& y, const std::vector<float>& x, float s, int64_t random = 0) {
  float a = 0, saturated = 0;
  for (size_t i = 0; i < x.size(); i++) {
    if (!y.t.scale) {
      y.setRaw(int64_t(i), x[i]);
      continue;
    }
    const float t = x[i] * s;
    a = std::isnan(x[i]) || std::fabs(x[i]) > a ? (std::isnan(x[i]) || std::isinf(a) ? INFINITY : std::fabs(x[i])) : a;
    saturated += std::fabs(t) > maxOf(y.t.dtype);
    y.setRaw(int64_t(i), t);
    if (random && y.t.dtype != DType::f16) {
      const uint32_t w = philox(philoxKey(uint64_t(random)), uint32_t(i >> 2), 0, 0x5352, 0).w[i & 3];
      y.t.as<uint8_t>()[i] = y.t.dtype == DType::e4m3 ? encodeE4M3Stochastic(t, w) : encodeE5M2Stochastic(t, w);
    }
  }
  if (!y.t.scale) return;
  y.block[kScale] = s, y.block[kScaleInv] = 1.0f / s, y.block[kAmax] = a, y.block[kSaturated] = saturated;
}

inline std::vector<float> values(const Box& x) {
  std::vector<float> v;
  for (int64_t i = 0; i < x.t.size; i++) v.push_back(x.value(i));
  return v;
}

inline void checkCasts() {
  Random r{7};
  for (DType from : allTypes)
    for (DType to : allTypes)
      for (int64_t n : sizes)
        for (int variant = 0; variant < 3; variant++) {  // plain, with NaN and inf, stochastic
          context = std::string("cast ") + names[int(from)] + " to " + names[int(to)] + " n " + std::to_string(n) + " variant " + std::to_string(variant);
          const int64_t random = variant == 2 && to != DType::f16 ? 12345 : 0;
          Box x(from, n, from == DType::e4m3 ? 3 : 0);
          x.fillRandom(r, 3.0f);
          if (variant == 1) {
            x.setRaw(n / 2, INFINITY);
            x.setRaw(n - 1, r.next() & 1 ? NAN : 1e30f);
          }
          Box y0(to, n);
          y0.setScale(32.0f);
          forThreads([&] {
            Box y(y0), want(y0);
            cast(y.t, x.t, n, random);
            expectStore(want, values(x), 32.0f, random);
            same("y", y, want);
          });
          if (to < DType::f16) continue;
          for (float count : {-1.0f, 3.0f, 16.0f}) {  // no window, warming up, warm
            float w0[kWindowBlock] = {count, 64.0f, 0.5f}, m0 = 0.75f;
            forThreads([&] {
              float w[kWindowBlock];
              memcpy(w, w0, sizeof w);
              Tensor window{count < 0 ? nullptr : w, kWindowBlock, DType::f32, nullptr}, mu{count == 3 ? &m0 : nullptr, 1, DType::f32, nullptr};
              Box y(y0), want(y0);
              quantize(y.t, x.t, window, mu, Tensor{}, n, random);
              const float a = amaxOfBox(x);
              float s = count == 16 ? 64.0f : scaleFor(a, maxOf(to), count == 3 ? 64.0f : 32.0f);
              if (count == 3) s *= m0;
              expectStore(want, values(x), s, random);
              same("quantize y", y, want);
              if (count >= 0 && w[kWindowAmax] != std::fmax(0.5f, a)) fail("window amax");
              float b = -1;
              amax(Tensor{&b, 1, DType::f32, nullptr}, x.t, n);
              if (b != a) fail("amax");
            });
          }
        }
  for (DType from : {DType::f32, DType::bf16})
    for (DType to : {DType::e4m3, DType::e5m2})
      for (int64_t rows : {1, 7, 8, 9, 33, 500})
        for (int64_t dim : {1, 17, 96, 515}) {
          context = std::string("quantize_rows ") + names[int(from)] + " to " + names[int(to)] + " " + std::to_string(rows) + " x " + std::to_string(dim);
          Box x(from, rows * dim), y0(to, rows * dim), s0(DType::f32, dim);
          x.fillRandom(r, 2.0f), s0.fillRandom(r);
          std::vector<double> sums;
          for (int64_t c = 0; c < dim; c++) {
            sums.push_back(s0.value(c));
            for (int64_t k = 0; k < rows; k++) sums.back() += x.value(k * dim + c);
          }
          Bytes first;
          forThreads([&] {
            for (int with = 0; with < 3; with++) {
              Box y(y0), want(y0), s(s0);
              if (with == 2) column_sums(s.t, x.t, rows, dim);
              else {
                quantize_rows(y.t, Tensor{}, with ? s.t : Tensor{}, x.t, Tensor{}, rows, dim, 0);
                expectStore(want, values(x), scaleFor(amaxOfBox(x), maxOf(to), 1.0f));
                same("y", y, want);
              }
              if (with) {
                near("sums", s, sums, 1e-5, 10.0);
                if (first.empty()) first = s.bytes;
                else if (first != s.bytes) fail("sums differ between thread counts or kernels");
              }
            }
            Box y(y0), want(y0);
            for (int64_t i = 0; i < rows * dim; i++) y.setRaw(i, x.value(i)), want.setRaw(i, x.value(i));
            y.setScale(4), want.setScale(4);
            std::vector<float> t;
            for (int64_t i = 0; i < rows * dim; i++) t.push_back(want.value(i) + x.value(i));
            float a = 0;
            for (float v : t) a = std::fmax(a, std::fabs(v));
            float m = 0.7f;
            accumulate_fp8(y.t, x.t, Tensor{&m, 1, DType::f32, nullptr}, rows * dim);
            expectStore(want, t, scaleFor(a, maxOf(to), 4.0f) * m);
            same("accumulate_fp8", y, want);
            int64_t top = 0;
            for (int64_t i = 0; i < rows * dim; i++) top += (y.t.as<uint8_t>()[i] & 0x7f) == (to == DType::e4m3 ? 0x7e : 0x7b);
            float mu = 1.0f;
            const double share = double(top) / double(rows * dim);
            mu_update(Tensor{&mu, 1, DType::f32, nullptr}, y.t, rows * dim, share, 1.5);
            if (mu != 1.5f) fail("mu grows at a share equal to the threshold");
            mu_update(Tensor{&mu, 1, DType::f32, nullptr}, y.t, rows * dim, share - 1e-9, 1.5);
            if (mu != 0.75f) fail("mu halves above the threshold");
            float count = 0;
            saturated(Tensor{&count, 1, DType::f32, nullptr}, y.t, rows * dim);
            if (int64_t(count) != top) fail("saturated");
          });
        }
  for (DType t : {DType::f32, DType::bf16, DType::i32}) {
    context = "fill";
    Box y(t, 40003);
    fill(y.t, 40003, -3.0);
    if (!y.guarded()) fail("overrun");
    for (int64_t i = 0; i < 40003; i++)
      if (t == DType::i32 ? y.t.as<int32_t>()[i] != -3 : y.raw(i) != -3.0f) return fail("value");
  }
}

/// Every bf16 and f16 there is to both FP8 formats, at powers of two on either side of where the short way (narrow.h) ends.
inline void checkRecodes() {
  for (DType from : {DType::bf16, DType::f16})
    for (DType to : {DType::e4m3, DType::e5m2})
      for (int power = -24; power <= 24; power++)
        for (const bool finite : {false, true}) {
          context = std::string("all ") + names[int(from)] + " to " + names[int(to)] + " times 2^" + std::to_string(power);
          const int64_t n = finite ? (from == DType::bf16 ? 0x7f80 : 0x7c00) : 65536;
          Box x(from, n), y(to, n), want(to, n);
          x.setScale(from == DType::f16 ? 0.25f : 1.0f);
          for (int64_t i = 0; i < n; i++) x.t.as<uint16_t>()[i] = uint16_t(i | (finite && i % 3 == 0 ? 0x8000 : 0));
          y.setScale(std::ldexp(1.0f, power));
          cast(y.t, x.t, n, 0);
          expectStore(want, values(x), std::ldexp(1.0f, power));
          same("codes", y, want);
        }
}

/// The vector encoders of this program's own instruction set and of the table in use, on every float there is.
inline void checkAllCasts() {
  constexpr int64_t kRun = 1 << 20;
  Box x(DType::f32, kRun);
  for (DType to : {DType::bf16, DType::f16, DType::e4m3, DType::e5m2}) {
    context = std::string("all floats to ") + names[int(to)];
    Box y(to, kRun), want(to, kRun);
    y.setScale(1.0f);
    for (uint64_t start = 0; start < (1ull << 32) && failures == 0; start += kRun) {
      for (int64_t i = 0; i < kRun; i++) x.t.as<uint32_t>()[i] = uint32_t(start + uint64_t(i));
      cast(y.t, x.t, kRun, 0);
      for (int64_t i = 0; i < kRun; i++) want.setRaw(i, floatOf(uint32_t(start + uint64_t(i))));
      const int64_t b = kRun * bytesOf(to);
      if (memcmp(y.t.data, want.t.data, size_t(b)) == 0) continue;
      for (int64_t i = 0; i < b; i++)
        if (y.t.as<uint8_t>()[i] != want.t.as<uint8_t>()[i]) {
          char line[100];
          snprintf(line, sizeof line, "float %08x differs", unsigned(start + uint64_t(i / bytesOf(to))));
          fail(line);
          break;
        }
    }
    printf("  %s: all 2^32 floats the same as float8.h: %s\n", names[int(to)], failures ? "NO" : "yes");
  }
}

}  // namespace check
