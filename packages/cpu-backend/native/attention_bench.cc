// Checks and times the kernels of attention, rope, embedding, loss and random numbers.
//
//   attention_bench --check [name]   every kernel against the plain float64 code of *_check.inl: odd sizes, each instruction
//                                    set, 1 and 2 threads, guard bytes around every buffer, gradients by finite differences
//   attention_bench --bench [name]   GFLOP/s beside the FMA peak, GB/s beside a copy, measured in the same run
//
// A process fixes its instruction set once, so --check forks a child for each.
#include <sys/wait.h>
#include <unistd.h>

#include "attention_check.h"
#include "attention_check.inl"
#include "peak.h"

namespace fp8lm::check {

struct Check {
  const char* name;
  void (*run)();
};
const Check kChecks[] = {{"attention", checkAttention}, {"attention_gradient", checkAttentionGradient}, {"attention_cached", checkCached}};

int checkOne(const std::string& only) {
  for (const Check& c : kChecks) {
    if (!only.empty() && only != c.name) continue;
    counter = {};
    c.run();
    std::printf("%-8s %d threads  %-20s %5lld checks, %lld failed, worst %.2f of the tolerance\n", isaName(isa()), numThreads(), c.name,
                static_cast<long long>(counter.checks), static_cast<long long>(counter.failures), counter.worst);
    std::fflush(stdout);
    if (counter.failures) return 1;
  }
  return 0;
}

int checkAll(const std::string& only) {
  int failed = 0;
  for (Isa variant : {Isa::generic, Isa::avx2, Isa::avx512})
    for (int threads : {1, 2}) {
      std::fflush(stdout);
      const pid_t child = fork();
      if (child == 0) {
        setenv("FP8_ISA", isaName(variant), 1);
        setNumThreads(threads);
        if (variant > bestIsa()) std::exit(0);
        std::exit(checkOne(only));
      }
      int status = 0;
      waitpid(child, &status, 0);
      if (status != 0) failed++;
    }
  std::puts(failed ? "FAILED" : "all checks passed");
  return failed ? 1 : 0;
}

void benchAttention() {
  const double peak = measurePeakGflops(false, 0.3);
  std::printf("FMA peak %.0f GFLOP/s on %d threads (%s)\n", peak, numThreads(), isaName(isa()));
  struct Shape { int64_t seq, batch, heads, kvHeads, dim; };
  for (const Shape s : {Shape{256, 4, 12, 12, 64}, Shape{512, 2, 12, 12, 64}, Shape{1024, 1, 12, 12, 64}, Shape{1024, 1, 12, 12, 128}, Shape{64, 16, 6, 6, 64},
                        Shape{1024, 1, 12, 4, 64}, Shape{1024, 1, 1, 1, 64}, Shape{256, 4, 6, 6, 32}})
    for (DType type : {DType::bf16, DType::f32}) {
      const int64_t rows = s.seq * s.batch, wide = (s.heads + 2 * s.kvHeads) * s.dim;
      Buffer qkv(type, rows * wide, 1), y(type, rows * s.heads * s.dim), lse(DType::f32, rows * s.heads), dy(type, y.n, 2), dqkv(type, qkv.n);
      const double scale = 1 / std::sqrt(double(s.dim));
      const double f = seconds([&] { attention_forward(y.tensor(), lse.tensor(), qkv.tensor(), s.seq, s.batch, s.heads, s.kvHeads, s.dim, scale); });
      const double g = seconds([&] {
        attention_backward(dqkv.tensor(), dy.tensor(), y.tensor(), lse.tensor(), qkv.tensor(), s.seq, s.batch, s.heads, s.kvHeads, s.dim, scale);
      });
      // Causal: a product over half of T x T.
      const double product = double(s.batch * s.heads) * double(s.seq) * double(s.seq + 1) * double(s.dim);
      std::printf("attention %s T %4lld B %2lld heads %2lld/%lld D %3lld  forward %8.0f us %4.0f GFLOP/s %3.0f %%   backward %8.0f us %4.0f GFLOP/s %3.0f %%\n",
                  type == DType::bf16 ? "bf16" : "f32 ", static_cast<long long>(s.seq), static_cast<long long>(s.batch), static_cast<long long>(s.heads),
                  static_cast<long long>(s.kvHeads), static_cast<long long>(s.dim), f * 1e6, 2 * product / f / 1e9, 200 * product / f / 1e9 / peak, g * 1e6,
                  5 * product / g / 1e9, 500 * product / g / 1e9 / peak);
    }
}

int bench(const std::string& only) {
  if (only.empty() || only == "attention") benchAttention();
  return 0;
}

}  // namespace fp8lm::check

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "", only = argc > 2 ? argv[2] : "";
  if (mode == "--bench") return fp8lm::check::bench(only);
  if (mode == "--check") return fp8lm::check::checkAll(only);
  std::fprintf(stderr, "usage: attention_bench --check | --bench [name]\n");
  return 2;
}
