// Timings of kernels_bench --bench. A kernel's GB/s counts what it must read and write once; the best of several rounds,
// as the machine may be shared. The copy in the first line is the ceiling, measured with the same threads. With one thread
// (FP8_THREADS=1) times are CPU time, which other programs disturb less.
#pragma once
#include <algorithm>
#include <chrono>
#include <ctime>

#include "check.h"

namespace check {

inline double seconds(const std::function<void()>& f) {
  if (numThreads() == 1) {
    const std::clock_t start = std::clock();
    f();
    return double(std::clock() - start) / CLOCKS_PER_SEC;
  }
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double best(int rounds, const std::function<void()>& f) {
  f();
  double t = 1e9;
  for (int i = 0; i < rounds; i++) t = std::min(t, seconds(f));
  return t;
}

inline void line(const char* name, double bytes, const std::function<void()>& f) {
  const double t = best(15, f);
  printf("  %-44s %7.2f ms %7.1f GB/s\n", name, t * 1e3, bytes / t / 1e9);
}

inline int64_t bytes(const Box& b) { return b.t.size * bytesOf(b.t.dtype); }

inline void benchOps() {
  const int64_t rows = 8192, dim = 3072, n = rows * dim;
  Random r{1};
  Box f(DType::f32, n), b(DType::bf16, n), b2(DType::bf16, n), b3(DType::bf16, n), e(DType::e4m3, n), e5(DType::e5m2, n), h(DType::f16, n), g(DType::f32, n);
  for (Box* x : {&f, &b, &b2}) x->fillRandom(r);
  Box stats(DType::f32, rows * 2), weight(DType::f32, dim), bias(DType::f32, dim), sums(DType::f32, dim), one(DType::f32, 1);
  weight.fillRandom(r), bias.fillRandom(r), sums.fillRandom(r);
  float w[kWindowBlock] = {16, 16};
  const Tensor window{w, kWindowBlock, DType::f32, nullptr}, none{};
  printf("%lld x %lld, %d threads, %s\n", (long long)rows, (long long)dim, numThreads(), "best of 15");
  line("copy 96 MiB", 2.0 * double(bytes(f)), [&] {
    parallelFor(n, [&](int, int64_t i, int64_t end) { memcpy(g.t.as<float>() + i, f.t.as<float>() + i, size_t(end - i) * 4); });
  });
  line("fill f32", double(bytes(f)), [&] { fill(g.t, n, 1.0); });
  line("cast f32 to bf16", 6.0 * double(n), [&] { cast(b3.t, f.t, n, 0); });
  line("cast bf16 to f32", 6.0 * double(n), [&] { cast(g.t, b.t, n, 0); });
  line("quantize bf16 to e4m3, delayed", 3.0 * double(n), [&] { quantize(e.t, b.t, window, none, none, n, 0); });
  line("quantize bf16 to e4m3, just in time", 5.0 * double(n), [&] { quantize(e.t, b.t, none, none, none, n, 0); });
  line("quantize f32 to e5m2, delayed", 5.0 * double(n), [&] { quantize(e5.t, f.t, window, none, none, n, 0); });
  line("quantize f32 to f16, delayed", 6.0 * double(n), [&] { quantize(h.t, f.t, window, none, none, n, 0); });
  line("quantize f32 to e4m3, stochastic", 5.0 * double(n), [&] { quantize(e.t, f.t, window, none, none, n, 1); });
  line("quantize_rows bf16 to e5m2 with sums", 3.0 * double(n), [&] { quantize_rows(e5.t, Tensor{}, sums.t, b.t, window, rows, dim, 0); });
  line("accumulate_fp8 e4m3 += f32", 11.0 * double(n), [&] { accumulate_fp8(e.t, f.t, none, n); });
  line("amax f32", 4.0 * double(n), [&] { amax(one.t, f.t, n); });
  line("amax bf16", 2.0 * double(n), [&] { amax(one.t, b.t, n); });
  line("mu_update e4m3", double(n), [&] { mu_update(one.t, e.t, n, 0.1, 1.0); });
  line("column_sums bf16", 2.0 * double(n), [&] { column_sums(sums.t, b.t, rows, dim); });
  line("sum_squares f32", 4.0 * double(n), [&] { sum_squares(one.t, f.t, n); });
  line("sum_squares e4m3", double(n), [&] { sum_squares(one.t, e.t, n); });
  line("add bf16", 6.0 * double(n), [&] { add(b3.t, b.t, b2.t, n); });
  line("scale bf16", 4.0 * double(n), [&] { scale(b3.t, b.t, n, 0.5); });
  line("gelu_forward bf16", 4.0 * double(n), [&] { gelu_forward(b3.t, b.t, none, n); });
  line("gelu_forward bf16 to e4m3, delayed", 3.0 * double(n), [&] { gelu_forward(e.t, b.t, window, n); });
  line("gelu_backward bf16", 6.0 * double(n), [&] { gelu_backward(b3.t, b2.t, b.t, n); });
  line("swiglu_forward bf16", 3.0 * double(n), [&] { swiglu_forward(b3.t, b.t, none, rows, dim / 2); });
  line("swiglu_backward bf16", 5.0 * double(n), [&] { swiglu_backward(b3.t, b2.t, b.t, rows, dim / 2); });
  line("layer_norm_forward bf16", 4.0 * double(n), [&] { layer_norm_forward(b3.t, stats.t, b.t, weight.t, bias.t, none, rows, dim, 1e-5); });
  line("layer_norm_forward bf16 to e4m3, delayed", 3.0 * double(n), [&] { layer_norm_forward(e.t, stats.t, b.t, weight.t, bias.t, window, rows, dim, 1e-5); });
  line("layer_norm_backward bf16 with residual", 8.0 * double(n), [&] {
    layer_norm_backward(b3.t, sums.t, bias.t, b2.t, b.t, weight.t, stats.t, b3.t, rows, dim);
  });
  line("rms_norm_forward bf16", 4.0 * double(n), [&] { rms_norm_forward(b3.t, stats.t, b.t, weight.t, none, rows, dim, 1e-5); });
}

/// The optimizer phase (sum_squares and adamw) over 8 matrices of 768 x 3072 a recipe; recipes take turns.
inline void benchAdamW() {
  struct Mix {
    const char* name;
    DType w, master, grad, m, v;
    std::vector<std::vector<Box>> tensors;
    double step = 1e9, squares = 1e9;
  };
  const DType none = DType::i32;
  std::vector<Mix> mixes = {{"bf16", DType::bf16, DType::f32, DType::f32, DType::f32, DType::f32, {}},
                            {"o1", DType::f16, none, DType::e4m3, DType::f32, DType::f32, {}},
                            {"o2", DType::f16, none, DType::e4m3, DType::e4m3, DType::f16, {}},
                            {"o3", DType::e4m3, DType::f16, DType::e4m3, DType::e4m3, DType::f16, {}},
                            {"embedding", DType::f32, none, DType::f32, DType::e4m3, DType::f16, {}}};
  const int64_t n = 768 * 3072;
  Random r{2};
  float control[4] = {0.37f, 1, 0, 100}, s = 0;
  const Tensor c{control, 4, DType::f32, nullptr}, one{&s, 1, DType::f32, nullptr};
  for (Mix& mix : mixes)
    for (int k = 0; k < 8; k++) {
      std::vector<Box> t = {Box(mix.w, n), Box(mix.master == none ? DType::f32 : mix.master, mix.master == none ? 1 : n), Box(mix.grad, n), Box(mix.m, n), Box(mix.v, n)};
      t[0].fillRandom(r, 0.05f), t[1].fillRandom(r, 0.05f), t[2].fillRandom(r, 1e-3f), t[3].fillRandom(r, 1e-4f), t[4].fillRandom(r, 1e-7f);
      if (mix.grad == DType::e4m3) t[2].setScale(t[2].block[kScale] * 1.00069f);
      for (int64_t i = 0; i < n; i++) t[4].setRaw(i, std::fabs(t[4].raw(i)));
      mix.tensors.push_back(t);
    }
  for (int round = 0; round < 12; round++)
    for (Mix& mix : mixes) {
      mix.squares = std::min(mix.squares, seconds([&] { for (auto& t : mix.tensors) sum_squares(one, t[2].t, n); }));
      mix.step = std::min(mix.step, seconds([&] {
        for (auto& t : mix.tensors)
          adamw(t[0].t, mix.master == none ? Tensor{} : t[1].t, t[2].t, t[3].t, t[4].t, c, Tensor{}, n, 0, 3e-4, 0.9, 0.95, 1e-8, 0.1);
      }));
    }
  printf("optimizer phase, 8 x %lld parameters, best of 12 rounds\n", (long long)n);
  for (Mix& mix : mixes)
    printf("  %-10s sum_squares %6.2f ms  adamw %6.2f ms  together %6.2f ms  %.2f ns/parameter  bf16 / this = %.2f\n", mix.name,
           mix.squares * 1e3, mix.step * 1e3, (mix.squares + mix.step) * 1e3, (mix.squares + mix.step) * 1e9 / double(8 * n),
           (mixes[0].squares + mixes[0].step) / (mix.squares + mix.step));
}

}  // namespace check
