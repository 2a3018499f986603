// The process's own thread pool, made so that losing a core costs its share of the work and no more. The caller is thread 0 of
// a region and starts at once; workers enter while the region is open and take what is left. Nobody waits for a worker that
// has not come, only for pieces that one has begun. Each thread has a run of the items of its own (so that caches see the
// same data from kernel to kernel), takes it in pieces that grow smaller, and then helps the others.
//
// So which thread computes an item is open, and kernels keep their bits by computing each item the same way on any thread and
// by merging in an order that depends on sizes alone. Idle threads spin for some tens of microseconds (the next region usually
// follows at once) and then sleep on a futex: an idle core lets the system bring the thread that lost its own. While one
// caller (worker_threads of one process) has the pool, others run their regions alone; so does a region inside a region.
// Workers are never joined: they live until the process exits.
#pragma once
#include <atomic>
#include <cstdint>
#include <type_traits>

namespace fp8lm {

/// Threads a region may use: FP8_THREADS, else the cores this process may run on (sched_getaffinity) divided by the ranks
/// that a launcher started on this machine (LOCAL_WORLD_SIZE and Open MPI's and MPICH's names for it).
int numThreads();

/// Changes numThreads() for the following regions; values below 1 count as 1.
void setNumThreads(int threads);

/// Lets threads in while it is open; who closes it waits for those inside. What is written before `open` is seen by all who
/// enter, and what they write before `leave` by who closed it.
class Gate {
 public:
  void open() { state_.store(kOpen); }
  bool enter() {
    uint32_t now = state_.load(std::memory_order_acquire);
    while (now & kOpen)
      if (state_.compare_exchange_weak(now, now + 1)) return true;
    return false;
  }
  void leave() {
    if (state_.fetch_sub(1) == 1) wake();
  }
  void close() {
    if (state_.fetch_and(~kOpen) != kOpen) await();
  }
  bool isOpen() const { return state_.load(std::memory_order_relaxed) & kOpen; }

 private:
  static constexpr uint32_t kOpen = 1u << 31;
  void await();
  void wake();
  std::atomic<uint32_t> state_{0};  // kOpen + threads inside
  std::atomic<int> sleepers_{0};
};

using RegionFn = void (*)(void* context, int thread);

/// Runs fn(context, 0) on the caller and meanwhile fn(context, thread) on at most `threads` - 1 workers (and at most
/// numThreads() - 1), each at most once; returns when all that began have ended. The work must be shared out inside, so that
/// the caller alone could do it. fn must not throw.
void runRegion(int threads, RegionFn fn, void* context);

/// f(int thread) on at most `threads` threads, as runRegion.
template <class F> void parallelRegion(int threads, F&& f) {
  using Body = std::remove_reference_t<F>;
  runRegion(
      threads, [](void* context, int thread) { (*static_cast<Body*>(context))(thread); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

/// The part of [0, count) that belongs to `thread`: sizes differ by at most one.
inline int64_t splitBegin(int64_t count, int thread, int threads) {
  return count / threads * thread + (count % threads < thread ? count % threads : thread);
}

/// The items [0, count) of a region, in one run a thread.
class Shares {
 public:
  Shares(int64_t count, int threads, int64_t grain) : runs_(threads < kMost ? threads : kMost), grain_(grain > 1 ? grain : 1) {
    for (int t = 0; t < runs_; t++) {
      run_[t].next.store(splitBegin(count, t, runs_), std::memory_order_relaxed);
      run_[t].end = splitBegin(count, t + 1, runs_);
    }
  }

  /// f(begin, end) on pieces until nothing is left: of the thread's own run first, then of the others'.
  template <class F> void take(int thread, F&& f) {
    for (int k = 0; k < runs_; k++) {
      Run& run = run_[(thread + k) % runs_];
      int64_t begin = run.next.load(std::memory_order_relaxed);
      while (begin < run.end) {
        const int64_t left = run.end - begin, size = left / 4 > grain_ ? left / 4 : left < grain_ ? left : grain_;
        if (!run.next.compare_exchange_weak(begin, begin + size, std::memory_order_relaxed)) continue;
        f(begin, begin + size);
        begin = run.next.load(std::memory_order_relaxed);
      }
    }
  }

 private:
  static constexpr int kMost = 64;  // further threads only help
  struct alignas(64) Run {
    std::atomic<int64_t> next;
    int64_t end;
  };
  int runs_;
  int64_t grain_;
  Run run_[kMost];
};

/// f(int thread, int64_t begin, int64_t end) on pieces of [0, count), of at least `grain` items but for the last of a run. A
/// thread gets any number of pieces, and below 2 * grain items all go to the caller in one.
template <class F> void parallelFor(int64_t count, int64_t grain, F&& f) {
  if (count <= 0) return;
  const int64_t useful = grain > 1 ? count / grain : count;
  const int64_t most = numThreads();
  const int threads = int(useful < 1 ? 1 : useful < most ? useful : most);
  if (threads == 1) return f(0, int64_t(0), count);
  Shares shares(count, threads, grain);
  parallelRegion(threads, [&](int thread) { shares.take(thread, [&](int64_t begin, int64_t end) { f(thread, begin, end); }); });
}

template <class F> void parallelFor(int64_t count, F&& f) { parallelFor(count, 1, static_cast<F&&>(f)); }

}  // namespace fp8lm
