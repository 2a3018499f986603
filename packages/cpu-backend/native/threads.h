// The process's own thread pool: static splits only, so that the work of a thread depends on nothing but the number of
// threads. The caller is thread 0 of a region; workers spin for about 50 us after a region (the next one usually follows
// at once) and then sleep on a futex. Regions of several callers (worker_threads of one process) run one after another;
// a region started inside a region runs serially. Workers are never joined: they live until the process exits.
#pragma once
#include <atomic>
#include <cstdint>
#include <type_traits>

namespace fp8lm {

/// Threads a region may use: FP8_THREADS, else the cores this process may run on (sched_getaffinity).
int numThreads();

/// Changes numThreads() for the following regions; values below 1 count as 1.
void setNumThreads(int threads);

/// A barrier for the threads of one region; make it outside the region and share it. Spins, then yields.
class Barrier {
 public:
  void wait(int threads);

 private:
  std::atomic<int> arrived{0};
  std::atomic<uint32_t> phase{0};
};

using RegionFn = void (*)(void* context, int thread, int threads);

/// Runs fn(context, thread, threads) on `threads` threads (at most numThreads()), thread 0 being the caller, and returns
/// when all are done. fn must not throw.
void runRegion(int threads, RegionFn fn, void* context);

/// f(int thread, int threads) once on each of at most `threads` threads.
template <class F> void parallelRegion(int threads, F&& f) {
  using Body = std::remove_reference_t<F>;
  runRegion(
      threads, [](void* context, int thread, int count) { (*static_cast<Body*>(context))(thread, count); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

/// The part of [0, count) that belongs to `thread`: sizes differ by at most one.
inline int64_t splitBegin(int64_t count, int thread, int threads) {
  return count / threads * thread + (count % threads < thread ? count % threads : thread);
}

/// f(int thread, int64_t begin, int64_t end) over a static split of [0, count). Each thread gets at least `grain` items,
/// so that short loops stay on the caller.
template <class F> void parallelFor(int64_t count, int64_t grain, F&& f) {
  if (count <= 0) return;
  const int64_t useful = grain > 1 ? count / grain : count;
  const int64_t most = numThreads();
  const int threads = int(useful < 1 ? 1 : useful < most ? useful : most);
  if (threads == 1) return f(0, int64_t(0), count);
  parallelRegion(threads, [&](int thread, int n) {
    f(thread, splitBegin(count, thread, n), splitBegin(count, thread + 1, n));
  });
}

template <class F> void parallelFor(int64_t count, F&& f) { parallelFor(count, 1, static_cast<F&&>(f)); }

}  // namespace fp8lm
