// Checks and times the GEMM engine. Build and run: node packages/cpu-backend/build.mjs --bench, then
//   build/gemm_bench --check           every variant of this CPU against double precision; exit code 1 on a difference
//   build/gemm_bench [seconds]         GFLOP/s and ratios to the machine's peak, interleaved in one run
//   build/gemm_bench --shape M N K     the same for one shape
//   build/gemm_bench --cpu [...]       one thread timed by its own CPU clock: steadier where others use the machine too
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "../../fp8-kernels/native/float8.h"
#include "../../fp8-kernels/native/memory.h"
#include "gemm_kernels.h"
#include "isa.h"
#include "peak.h"
#include "threads.h"

using namespace fp8lm;

namespace {

bool cpuTime = false;  // --cpu: one thread, timed by its own CPU clock, for a machine that others use as well

double now() {
  if (cpuTime) {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const char* nameOf(DType t) {
  return t == DType::f32 ? "f32" : t == DType::bf16 ? "bf16" : t == DType::f16 ? "f16" : t == DType::e4m3 ? "e4m3" : "e5m2";
}
constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2};

void writeValue(void* p, DType t, int64_t i, float x) {
  switch (t) {
    case DType::f32: static_cast<float*>(p)[i] = x; break;
    case DType::bf16: static_cast<uint16_t*>(p)[i] = encodeBF16(x); break;
    case DType::f16: static_cast<uint16_t*>(p)[i] = encodeF16(x); break;
    case DType::e4m3: static_cast<uint8_t*>(p)[i] = encodeE4M3(x); break;
    default: static_cast<uint8_t*>(p)[i] = encodeE5M2(x);
  }
}
float readValue(const void* p, DType t, int64_t i) {
  switch (t) {
    case DType::f32: return static_cast<const float*>(p)[i];
    case DType::bf16: return decodeBF16(static_cast<const uint16_t*>(p)[i]);
    case DType::f16: return decodeF16(static_cast<const uint16_t*>(p)[i]);
    case DType::e4m3: return decodeE4M3(static_cast<const uint8_t*>(p)[i]);
    default: return decodeE5M2(static_cast<const uint8_t*>(p)[i]);
  }
}

/// The tensors' own allocator, huge pages included: where its lines lie is half of what packing costs.
template <class T> struct TensorAllocator {
  using value_type = T;
  T* allocate(size_t count) { return static_cast<T*>(memory::allocate(count * sizeof(T))); }
  void deallocate(T* p, size_t count) { memory::release(p, count * sizeof(T)); }
  bool operator==(const TensorAllocator&) const { return true; }
  bool operator!=(const TensorAllocator&) const { return false; }
};

struct Matrix {
  DType type;
  int64_t rows, cols, ld;  // as stored
  std::vector<char, TensorAllocator<char>> bytes;
  Matrix(DType t, int64_t r, int64_t c, int64_t extra = 0)
      : type(t), rows(r), cols(c), ld(c + extra), bytes(size_t(std::max<int64_t>(1, r * (c + extra)) * bytesOf(t))) {}
  template <class R> void fill(R& random, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    for (int64_t i = 0; i < rows * ld; ++i) writeValue(bytes.data(), type, i, normal(random));
  }
  float at(int64_t r, int64_t c) const { return readValue(bytes.data(), type, r * ld + c); }
};

std::vector<const GemmKernels*> variants() {
  std::vector<const GemmKernels*> all{&gemmGeneric()};
#if defined(__x86_64__)
  if (bestIsa() >= Isa::avx2) all.push_back(&gemmAvx2());
  if (bestIsa() >= Isa::avx512) all.push_back(&gemmAvx512());
  if (hasDot()) all.push_back(&gemmAvx512Bf16()), all.push_back(&gemmAvx512Dot());
#endif
  return all;
}

// *** check ***

struct Case {
  int64_t m, n, k;
  DType a, b, c;
  bool ta, tb, bias, accumulate, f32;
  float alpha;
};

/// Worst |C - reference| / (sum of |a b| and the addends), less what the rounding of C itself may cost.
double checkCase(const GemmKernels& variant, const Case& x, std::mt19937& random) {
  const int64_t extra = int64_t(random() % 3);
  Matrix a(x.a, x.ta ? x.k : x.m, x.ta ? x.m : x.k, extra), b(x.b, x.tb ? x.n : x.k, x.tb ? x.k : x.n, extra);
  Matrix c(x.c, x.m, x.n, extra);
  // wide enough to meet subnormal codes often
  a.fill(random, x.a == DType::e4m3 ? 0.05f : x.a == DType::e5m2 ? 1e-4f : 1.0f);
  b.fill(random, x.b == DType::e4m3 ? 2.0f : 1.0f);
  c.fill(random, 1.0f);
  const Matrix before = c;
  std::vector<float> bias(size_t(x.n + 1));
  for (float& v : bias) v = float(int(random() % 2001) - 1000) / 500.0f;
  const float sa = 0.25f, sb = 2.0f;
  float amax = -1;
  GemmArgs args{x.m, x.n, x.k, {a.bytes.data(), x.a, a.ld, x.ta, &sa}, {b.bytes.data(), x.b, b.ld, x.tb, x.k % 2 ? &sb : nullptr},
                c.bytes.data(), x.c, c.ld, x.bias ? bias.data() : nullptr, x.alpha, x.accumulate, x.f32, &amax};
  gemmWith(variant, args);
  const double scale = double(x.alpha) * sa * (x.k % 2 ? sb : 1.0f);
  const auto operand = [&](float v) { return double(x.f32 ? v : decodeBF16(encodeBF16(v))); };
  std::vector<double> da(size_t(x.m * x.k)), db(size_t(x.k * x.n));
  for (int64_t i = 0; i < x.m; ++i)
    for (int64_t p = 0; p < x.k; ++p) da[size_t(i * x.k + p)] = operand(x.ta ? a.at(p, i) : a.at(i, p));
  for (int64_t j = 0; j < x.n; ++j)
    for (int64_t p = 0; p < x.k; ++p) db[size_t(j * x.k + p)] = operand(x.tb ? b.at(j, p) : b.at(p, j));
  double worst = 0;
  float most = 0;
  for (int64_t i = 0; i < x.m; ++i) {
    for (int64_t j = 0; j < c.ld; ++j) {
      if (j >= x.n) {
        if (i + 1 < x.m && c.at(i, j) != before.at(i, j)) return INFINITY;  // wrote between the rows
        continue;
      }
      double sum = 0, size = 0;
      for (int64_t p = 0; p < x.k; ++p) {
        const double product = da[size_t(i * x.k + p)] * db[size_t(j * x.k + p)];
        sum += product;
        size += std::fabs(product);
      }
      double want = sum * scale, weight = size * std::fabs(scale);
      if (x.bias) want += bias[size_t(j)], weight += std::fabs(bias[size_t(j)]);
      if (x.accumulate) want += before.at(i, j), weight += std::fabs(before.at(i, j));
      const double got = c.at(i, j);
      const double rounding = x.c == DType::f32 ? 0 : x.c == DType::bf16 ? std::ldexp(std::fabs(want), -8) : std::ldexp(std::fabs(want), -11) + 3e-8;
      worst = std::max(worst, std::max(0.0, std::fabs(got - want) - rounding) / (weight + 1e-30));
      if (!(std::fabs(got - want) < 1e30)) return INFINITY;
      most = std::max(most, float(std::fabs(got)));
    }
  }
  return amax == most ? worst : INFINITY;
}

/// Every code of a format through both packings and the skinny path must come out as the scalar decoder has it.
bool checkCodes(const GemmKernels& variant, DType type, bool f32) {
  const int count = bytesOf(type) == 1 ? 256 : 65536;
  std::vector<uint16_t> wide(static_cast<size_t>(count));
  std::vector<uint8_t> narrow(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) wide[size_t(i)] = uint16_t(i), narrow[size_t(i)] = uint8_t(i);
  const void* codes = bytesOf(type) == 1 ? static_cast<const void*>(narrow.data()) : wide.data();
  const float one = 1.0f;
  std::vector<float> c(static_cast<size_t>(count));
  bool good = true;
  for (int form = 0; form < 8; ++form) {
    const bool asA = form & 1, transposed = form & 2, skinny = form & 4;
    // codes as [rows, cols] times 1 with k = 1; as A the rows matter, as B the columns. 8 rows avoid the skinny path.
    std::fill(c.begin(), c.end(), -7.0f);
    std::vector<float> ones(8, one), result(static_cast<size_t>(count) * 8);
    float amax = 0;
    GemmArgs args{};
    args.k = 1;
    args.alpha = 1;
    args.computeF32 = f32;
    args.cType = DType::f32;
    args.amax = &amax;
    args.c = result.data();
    const GemmOperand all{codes, type, transposed == asA ? count : 1, transposed, nullptr};
    if (asA) {
      if (skinny) continue;
      args.m = count, args.n = 1, args.ldc = 1, args.a = all, args.b = {&one, DType::f32, 1, false, nullptr};
    } else {
      args.m = skinny ? 1 : 8, args.n = count, args.ldc = count, args.b = all, args.a = {ones.data(), DType::f32, 1, false, nullptr};
    }
    gemmWith(variant, args);
    for (int i = 0; i < count; ++i) {
      float want = bytesOf(type) == 1 ? readValue(narrow.data(), type, i) : readValue(wide.data(), type, i);
      if (!f32) want = decodeBF16(encodeBF16(want));
      const float got = result[size_t(i)];
      const bool flushed = variant.kUnit == 2 && std::fabs(want) < 1.2e-38f && got == 0;  // vdpbf16ps and skinny differ here
      if (!(got == want || (got != got && want != want) || flushed)) {
        if (good) std::printf("  %s %s code %d form %d: got %g, expected %g\n", variant.name, nameOf(type), i, form, got, want);
        good = false;
      }
    }
    if (amax != INFINITY) good = false;  // every format has a NaN
  }
  return good;
}

int check() {
  std::mt19937 random(1);
  bool good = true;
  for (const GemmKernels* variant : variants()) {
    for (DType t : {DType::bf16, DType::f16, DType::e4m3, DType::e5m2}) {
      good = checkCodes(*variant, t, true && variant->kUnit == 1) && good;
      good = checkCodes(*variant, t, false) && good;
    }
    double worst = 0;
    long cases = 0;
    const auto one = [&](Case x) {
      if (variant->kUnit == 2) x.f32 = false;
      const double error = checkCase(*variant, x, random);
      ++cases;
      worst = std::max(worst, error);
      if (!(error < 3e-6)) {
        std::printf("  %s: m %ld n %ld k %ld %s%s x %s%s -> %s bias %d acc %d f32 %d: error %g\n", variant->name, long(x.m),
                    long(x.n), long(x.k), nameOf(x.a), x.ta ? "^T" : "", nameOf(x.b), x.tb ? "^T" : "", nameOf(x.c), x.bias,
                    x.accumulate, x.f32, error);
        good = false;
      }
    };
    const DType results[] = {DType::f32, DType::bf16, DType::f16};
    for (DType a : kTypes)
      for (DType b : kTypes)
        for (int form = 0; form < 4; ++form) {
          for (int r = 0; r < 24; ++r) {
            const bool alphaOne = random() % 2;
            one({int64_t(random() % 70 + 1), int64_t(random() % 70 + 1), int64_t(random() % 71), a, b, results[random() % 3],
                 bool(form & 1), bool(form & 2), bool(random() % 2), bool(random() % 2), bool(random() % 2), alphaOne ? 1.0f : 0.75f});
          }
          one({37, 131, 1601, a, b, results[random() % 3], bool(form & 1), bool(form & 2), true, bool(random() % 2), bool(random() % 2), 1.0f});
          for (int64_t m : {1, 3, 4}) one({m, 200, 333, a, b, DType::f32, bool(form & 1), bool(form & 2), true, true, true, 1.0f});
        }
    for (int form = 0; form < 4; ++form) {
      one({300, 500, 3200, DType::bf16, DType::bf16, DType::bf16, bool(form & 1), bool(form & 2), false, true, false, 1.0f});
      one({0, 5, 5, DType::f32, DType::f32, DType::f32, bool(form & 1), bool(form & 2), true, false, true, 1.0f});
      one({5, 0, 5, DType::f32, DType::f32, DType::f32, bool(form & 1), bool(form & 2), true, false, true, 1.0f});
      one({1, 7, 0, DType::bf16, DType::e4m3, DType::f32, bool(form & 1), bool(form & 2), true, true, false, 1.0f});
    }
    std::printf("%-10s %ld cases, worst error %.2e of the summed magnitudes\n", variant->name, cases, worst);
  }
  std::printf(good ? "ok\n" : "FAILED\n");
  return good ? 0 : 1;
}

// *** bench ***

struct Bench {
  const char* name;
  int64_t m, n, k;
  DType a, b, c;
  bool ta, tb, accumulate, f32;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

double peakRate() {
  if (!cpuTime) return measurePeakGflops(true, 0.02);
  PeakLoop loop = peakGeneric;
#if defined(__x86_64__)
  if (isa() == Isa::avx2) loop = peakAvx2;
  if (isa() == Isa::avx512) loop = preferDot() ? peakAvx512Dot : peakAvx512;
#endif
  const double start = now(), flops = loop(40000);
  return flops / (now() - start) / 1e9;
}

/// Times all forms of one shape and the peak in turns, `rounds` times; prints medians and their ratio to the peak's, and
/// the ratio of the best rates.
void bench(int64_t m, int64_t n, int64_t k, double seconds) {
  const DType f = DType::f32, h = DType::bf16, p = DType::e4m3, q = DType::e5m2;
  const Bench all[] = {
      {"bf16 NT y=xw'", m, n, k, h, h, h, false, true, false, false},
      {"e4m3 NT y=xw'", m, n, k, p, p, h, false, true, false, false},
      {"bf16 NN dx=dy.w", m, k, n, h, h, h, false, false, false, false},
      {"e5m2 NN dx=dy.w", m, k, n, q, p, h, false, false, false, false},
      {"bf16 TN dw+=dy'x", n, k, m, h, h, f, true, false, true, false},
      {"e5m2 TN dw+=dy'x", n, k, m, q, p, f, true, false, true, false},
      {"f32  NT y=xw'", m, n, k, f, f, f, false, true, false, true},
      {"f32  TN dw+=dy'x", n, k, m, f, f, f, true, false, true, true},
  };
  std::mt19937 random(7);
  struct Run {
    GemmArgs args;
    std::vector<double> rate, ratio, toBf16;
  };
  std::vector<Matrix> store;
  store.reserve(64);
  std::vector<Run> runs;
  const float one = 1.0f;
  const auto make = [&](DType t, int64_t rows, int64_t cols) -> void* {
    store.emplace_back(t, rows, cols);
    Matrix& x = store.back();
    const float spread = t == DType::e4m3 ? 60.0f : t == DType::e5m2 ? 1000.0f : 1.0f;
    std::vector<char> some(4096);
    std::normal_distribution<float> normal(0.0f, spread);
    for (int64_t i = 0; i < 1021; ++i) writeValue(some.data(), t, i, normal(random));
    const int64_t period = 1021 * bytesOf(t);
    for (size_t i = 0; i < x.bytes.size(); i += size_t(period))
      memcpy(x.bytes.data() + i, some.data(), std::min(x.bytes.size() - i, size_t(period)));
    return x.bytes.data();
  };
  for (const Bench& x : all) {
    const void* a = make(x.a, x.ta ? x.k : x.m, x.ta ? x.m : x.k);
    const void* b = make(x.b, x.tb ? x.n : x.k, x.tb ? x.k : x.n);
    void* c = make(x.c, x.m, x.n);
    runs.push_back({{x.m, x.n, x.k, {a, x.a, x.ta ? x.m : x.k, x.ta, &one}, {b, x.b, x.tb ? x.k : x.n, x.tb, &one}, c, x.c, x.n,
                     nullptr, 1.0f, x.accumulate, x.f32, nullptr},
                    {}, {}, {}});
  }
  for (Run& r : runs) gemm(r.args);  // warm-up
  const double flops = 2.0 * double(m) * double(n) * double(k), start = now();
  std::vector<double> peaks;
  const int reps = int(std::max(1.0, 0.02 * 3e11 / flops));
  double before = peakRate();
  do {
    double bf16Rate = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      const double t = now();
      for (int r = 0; r < reps; ++r) gemm(runs[i].args);
      const double rate = flops * reps / (now() - t) / 1e9;
      const double after = peakRate();
      runs[i].rate.push_back(rate);
      runs[i].ratio.push_back(rate / ((before + after) / 2));
      if (i % 2 == 0) bf16Rate = rate;
      runs[i].toBf16.push_back(rate / bf16Rate);
      peaks.push_back(after);
      before = after;
    }
  } while (now() - start < seconds);
  std::printf("M %ld N %ld K %ld, %d threads, peak median %.1f GFLOP/s (max %.1f), %zu rounds\n", long(m), long(n), long(k),
              numThreads(), median(peaks), *std::max_element(peaks.begin(), peaks.end()), runs[0].rate.size());
  for (size_t i = 0; i < runs.size(); ++i)
    std::printf("  %-18s %7.1f GFLOP/s  %.3f of peak (best %.3f)%s\n", all[i].name, median(runs[i].rate), median(runs[i].ratio),
                *std::max_element(runs[i].rate.begin(), runs[i].rate.end()) / *std::max_element(peaks.begin(), peaks.end()),
                i % 2 && i < 6 ? ("  " + std::to_string(median(runs[i].toBf16)).substr(0, 5) + " of bf16").c_str() : "");
}

}  // namespace

int main(int argc, char** argv) {
  if (isaError()) {
    std::fprintf(stderr, "%s\n", isaError());
    return 2;
  }
  if (argc > 1 && std::string(argv[1]) == "--check") return check();
  if (argc > 1 && std::string(argv[1]) == "--cpu") {
    cpuTime = true;
    setNumThreads(1);
    --argc;
    ++argv;
  }
  if (argc > 4 && std::string(argv[1]) == "--shape") {
    bench(std::atol(argv[2]), std::atol(argv[3]), std::atol(argv[4]), argc > 5 ? std::atof(argv[5]) : 4);
    return 0;
  }
  const double seconds = argc > 1 ? std::atof(argv[1]) : 12;
  std::printf("isa %s, %s, copy %.1f GB/s\n", isaName(isa()), preferDot() ? "dot" : "fma", measureCopyGBs(0.5));
  bench(2048, 3072, 768, seconds);
  bench(2048, 768, 3072, seconds);
  bench(1024, 50304, 768, seconds);
  for (int64_t m : {1, 4, 8, 64}) bench(m, 3072, 768, seconds / 4);
}
