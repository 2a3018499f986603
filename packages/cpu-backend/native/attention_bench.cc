// Checks and times the kernels of attention, rope, embedding, loss and random numbers.
//
//   attention_bench --check [name]   every kernel against the plain float64 code of *_check.inl: odd sizes, each instruction
//                                    set, with FMA and dot products, 1 and 2 threads, guard bytes around every buffer,
//                                    gradients by finite differences
//   attention_bench --bench [name]   GFLOP/s beside the peak (of the dot product if it is in use), GB/s beside a copy,
//                                    measured in the same run
//
// A process fixes its instruction set once, so --check forks a child for each.
#include <sys/wait.h>
#include <unistd.h>

#include "attention_check.h"
#include "attention_check.inl"
#include "embedding_check.inl"
#include "loss_check.inl"
#include "peak.h"
#include "random_check.inl"

namespace fp8lm::check {

struct Check {
  const char* name;
  void (*run)();
};
const Check kChecks[] = {{"attention", checkAttention},
                         {"attention_gradient", checkAttentionGradient},
                         {"attention_cached", checkCached},
                         {"random", checkRandom},
                         {"loss", checkLoss},
                         {"embedding", checkEmbedding},
                         {"rope", checkRope}};

int checkOne(const std::string& only) {
  for (const Check& c : kChecks) {
    if (!only.empty() && only != c.name) continue;
    counter = {};
    c.run();
    std::printf("%-8s %s %d threads  %-20s %5lld checks, %lld failed, worst %.2f of the tolerance\n", isaName(isa()),
                preferDot() ? "dot" : "fma", numThreads(), c.name, static_cast<long long>(counter.checks),
                static_cast<long long>(counter.failures), counter.worst);
    std::fflush(stdout);
    if (counter.failures) return 1;
  }
  return 0;
}

/// An instruction set, and whether products of bf16 use the dot product.
struct Variant {
  Isa isa;
  const char* gemm;
};

int checkAll(const std::string& only) {
  int failed = 0;
  for (const Variant v : {Variant{Isa::generic, "fma"}, {Isa::avx2, "fma"}, {Isa::avx512, "fma"}, {Isa::avx512, "dot"}})
    for (int threads : {1, 2}) {
      std::fflush(stdout);
      const pid_t child = fork();
      if (child == 0) {
        setenv("FP8_ISA", isaName(v.isa), 1);
        setenv("FP8_GEMM", v.gemm, 1);
        setNumThreads(threads);
        if (v.isa > bestIsa() || (std::string(v.gemm) == "dot" && !hasDot())) std::exit(0);
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
  const double peak = measurePeakGflops(true, 0.3);
  std::printf("peak %.0f GFLOP/s on %d threads (%s)\n", peak, numThreads(), isaName(isa()));
  struct Shape {
    int64_t seq, batch, heads, kvHeads, dim;
  };
  for (const Shape s :
       {Shape{256, 4, 12, 12, 64}, Shape{256, 4, 12, 12, 128}, Shape{512, 2, 12, 12, 64}, Shape{1024, 1, 12, 12, 64},
        Shape{1024, 1, 12, 12, 128}, Shape{64, 16, 6, 6, 64}, Shape{1024, 1, 12, 4, 64}, Shape{1024, 1, 1, 1, 64},
        Shape{256, 4, 6, 6, 32}})
    for (DType type : {DType::bf16, DType::f32}) {
      const int64_t rows = s.seq * s.batch, wide = (s.heads + 2 * s.kvHeads) * s.dim;
      Buffer qkv(type, rows * wide, 1), y(type, rows * s.heads * s.dim), lse(DType::f32, rows * s.heads),
          dy(type, y.n, 2), dqkv(type, qkv.n);
      const double scale = 1 / std::sqrt(double(s.dim));
      const double f = seconds([&] {
        attention_forward(y.tensor(), lse.tensor(), qkv.tensor(), s.seq, s.batch, s.heads, s.kvHeads, s.dim, scale);
      });
      const double g = seconds([&] {
        attention_backward(dqkv.tensor(), dy.tensor(), y.tensor(), lse.tensor(), qkv.tensor(), s.seq, s.batch, s.heads,
                           s.kvHeads, s.dim, scale);
      });
      // Causal: a product over half of T x T.
      const double product = double(s.batch * s.heads) * double(s.seq) * double(s.seq + 1) * double(s.dim);
      std::printf(
          "attention %s T %4lld B %2lld heads %2lld/%lld D %3lld  forward %8.0f us %4.0f GFLOP/s %3.0f %%   backward "
          "%8.0f us %4.0f GFLOP/s %3.0f %%\n",
          type == DType::bf16 ? "bf16" : "f32 ", static_cast<long long>(s.seq), static_cast<long long>(s.batch),
          static_cast<long long>(s.heads), static_cast<long long>(s.kvHeads), static_cast<long long>(s.dim), f * 1e6,
          2 * product / f / 1e9, 200 * product / f / 1e9 / peak, g * 1e6, 5 * product / g / 1e9,
          500 * product / g / 1e9 / peak);
    }
}

/// `bytes` read and written, beside a copy of 128 MiB.
void report(const char* name, double bytes, double t, double copy) {
  std::printf("%-44s %8.0f us  %6.1f GB/s  %4.0f %% of copy\n", name, t * 1e6, bytes / t / 1e9,
              100 * bytes / t / 1e9 / copy);
}

void benchMemory() {
  const double copy = measureCopyGBs(0.5);
  std::printf("copy %.1f GB/s on %d threads (%s)\n", copy, numThreads(), isaName(isa()));
  const DType h = DType::bf16;
  {
    const int64_t seq = 1024, heads = 12, dim = 64, maxSeq = 1024;
    for (int64_t batch : {1, 8}) {
      const int64_t row = batch * heads * dim;
      Buffer qkv(h, 3 * row, 1), y(h, row), keys(h, maxSeq * row, 2), values(h, maxSeq * row, 3);
      const double t = seconds([&] {
        attention_cached(y.tensor(), keys.tensor(), values.tensor(), qkv.tensor(), 1, batch, heads, heads, dim, seq - 1,
                         maxSeq, 0.125);
      });
      report(batch == 1 ? "attention_cached 1 token of 1024, batch 1" : "attention_cached 1 token of 1024, batch 8",
             4.0 * double(seq * row), t, copy);
    }
  }
  {
    const int64_t n = int64_t(4096) * 2304;
    Buffer x(h, n, 1), y(h, n);
    report("rope bf16 [4096, 2304], T 1024", 4.0 * double(n),
           seconds([&] { rope(y.tensor(), x.tensor(), 4096, 4, 12, 12, 64, 0, 10000, 0); }), copy);
    report("dropout bf16 9.4 M, rate 0.1", 4.0 * double(n),
           seconds([&] { dropout(y.tensor(), x.tensor(), kNone, n, 0.1, 1, 2, 0); }), copy);
    Buffer z(DType::f32, 4000000);
    report("random_normal 4 M", 4.0 * double(z.n), seconds([&] { random_normal(z.tensor(), z.n, 0.02, 1, 2, 0); }),
           copy);
  }
  {
    const int64_t rows = 4096, dim = 768, vocab = 50304;
    Buffer table(h, vocab * dim, 1), tokens(DType::i32, rows), y(h, rows * dim, 2), dt(DType::f32, vocab * dim, 3);
    for (int64_t r = 0; r < rows; r++) tokens.put(r, int32_t(uint64_t(r) * 2654435761u % uint64_t(vocab)));
    report("embedding_forward bf16 [4096, 768]", 4.0 * double(rows * dim), seconds([&] {
             embedding_forward(y.tensor(), tokens.tensor(), table.tensor(), kNone, rows, dim, vocab, 0, 4, 0, 1024);
           }),
           copy);
    report("embedding_backward bf16 [4096, 768]", 10.0 * double(rows * dim), seconds([&] {
             embedding_backward(dt.tensor(), kNone, tokens.tensor(), y.tensor(), rows, dim, vocab, 0, 4, 0, 1024);
           }),
           copy);
  }
  {
    const int64_t rows = 256, vocab = 50304;
    Buffer logits(h, rows * vocab, 1), loss(DType::f32, rows), targets(DType::i32, rows);
    for (int64_t r = 0; r < rows; r++) targets.put(r, int32_t(r));
    const auto run = [&] {
      softmax_cross_entropy(logits.tensor(), loss.tensor(), targets.tensor(), rows, vocab, vocab, 1, 0, 1);
    };
    report("softmax_cross_entropy bf16 [256, 50304]", 4.0 * double(rows * vocab), seconds(run), copy);
  }
}

int bench(const std::string& only) {
  if (only.empty() || only == "attention") benchAttention();
  if (only.empty() || only == "memory") benchMemory();
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
