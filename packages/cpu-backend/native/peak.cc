#include "peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "isa.h"
#include "threads.h"

namespace fp8lm {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Best rate over slices of about 10 ms: all threads start a slice together and the slowest one ends it.
double bestRate(PeakLoop loop, double seconds) {
  const int threads = numThreads();
  long rounds = 1000;
  for (double took = 0; took < 2e-3; rounds *= 2) {
    const double start = now();
    loop(rounds);
    took = now() - start;
  }
  rounds *= 4;
  double best = 0;
  const double start = now();
  do {
    std::unique_ptr<double[]> work(new double[size_t(threads)]());
    std::atomic<int> ready{0};
    double began = 0;
    const double patience = now() + 0.1;
    parallelRegion(threads, [&](int thread) {
      ready++;
      while (ready < threads && now() < patience) {}
      if (thread == 0) began = now();
      work[size_t(thread)] = loop(rounds);
    });
    const double took = now() - began;
    double total = 0;
    for (int i = 0; i < threads; ++i) total += work[size_t(i)];
    best = std::max(best, total / took / 1e9);
  } while (now() - start < seconds);
  return best;
}

}  // namespace

double measurePeakGflops(bool bf16, double seconds) {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) {
    if (!bf16 || !hasDot()) return bestRate(peakAvx512, seconds);
    return std::max(bestRate(peakAvx512, seconds / 2), bestRate(peakAvx512Dot, seconds / 2));
  }
  if (isa() == Isa::avx2) return bestRate(peakAvx2, seconds);
#endif
  (void)bf16;
  return bestRate(peakGeneric, seconds);
}

double measureCopyGBs(double seconds) {
  const size_t bytes = size_t(128) << 20;
  std::unique_ptr<char[]> from(new char[bytes]), to(new char[bytes]);
  const auto each = [&](auto&& body) {
    parallelFor(int64_t(bytes >> 12), [&](int, int64_t begin, int64_t end) {
      body(size_t(begin) << 12, size_t(end - begin) << 12);
    });
  };
  each([&](size_t at, size_t size) {
    std::memset(from.get() + at, 1, size);
    std::memset(to.get() + at, 2, size);
  });
  double best = 0;
  const double start = now();
  do {
    const double began = now();
    each([&](size_t at, size_t size) { std::memcpy(to.get() + at, from.get() + at, size); });
    best = std::max(best, 2.0 * double(bytes) / (now() - began) / 1e9);
  } while (now() - start < seconds);
  return best;
}

}  // namespace fp8lm
