#include "threads.h"

#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fp8lm {
namespace {

inline void pauseCore() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps while *word == seen (may return early); wakeAll ends the sleep of everyone on the word.
void sleepOn(std::atomic<uint32_t>& word, uint32_t seen) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  if (word.load() == seen) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}

void wakeAll(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, 0x7fffffff, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

// Spins about 50 us for `word` to leave `seen`, then sleeps. `sleepers` tells the writer that a wake-up is needed; both
// sides use sequentially consistent order, so either the writer sees the sleeper or the sleeper sees the new value.
uint32_t awaitChange(std::atomic<uint32_t>& word, uint32_t seen, std::atomic<int>& sleepers) {
  uint32_t now;
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i) {
      if ((now = word.load(std::memory_order_acquire)) != seen) return now;
      pauseCore();
    }
  } while (std::chrono::steady_clock::now() - start < std::chrono::microseconds(50));
  sleepers.fetch_add(1);
  while ((now = word.load()) == seen) sleepOn(word, seen);
  sleepers.fetch_sub(1);
  return now;
}

void announce(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers) {
  word.store(value);
  if (sleepers.load() > 0) wakeAll(word);
}

struct alignas(64) Worker {
  std::atomic<uint32_t> turn{0};  // changes when there is a region for this worker
  std::atomic<int> sleepers{0};
};

struct Pool {
  std::mutex region;  // held for the length of a region
  std::vector<Worker*> workers;
  RegionFn fn = nullptr;
  void* context = nullptr;
  int threads = 1;
  alignas(64) std::atomic<int> pending{0};
  alignas(64) std::atomic<uint32_t> finished{0};  // counts regions; the caller waits for it to change
  std::atomic<int> finishSleepers{0};

  void work(Worker& worker, int thread);
  void grow(int count) {
    while (int(workers.size()) < count) {
      Worker* worker = new Worker;
      const int thread = int(workers.size()) + 1;
      workers.push_back(worker);
      std::thread([this, worker, thread] { work(*worker, thread); }).detach();
    }
  }
};

thread_local bool inRegion = false;

void Pool::work(Worker& worker, int thread) {
  inRegion = true;  // a worker's own regions are nested by definition
  uint32_t turn = 0;
  for (;;) {
    turn = awaitChange(worker.turn, turn, worker.sleepers);
    fn(context, thread, threads);
    if (pending.fetch_sub(1) == 1) announce(finished, finished.load() + 1, finishSleepers);
  }
}

// Never destroyed: workers may still be asleep on it when static destructors run.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

int defaultThreads() {
  if (const char* text = std::getenv("FP8_THREADS")) {
    const int n = std::atoi(text);
    if (n > 0) return n;
  }
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? int(n) : 1;
}

std::atomic<int> wanted{0};

}  // namespace

int numThreads() {
  int n = wanted.load(std::memory_order_relaxed);
  if (n == 0) {
    int none = 0;
    n = defaultThreads();
    if (!wanted.compare_exchange_strong(none, n)) n = none;
  }
  return n;
}

void setNumThreads(int threads) { wanted.store(threads < 1 ? 1 : threads); }

void Barrier::wait(int threads) {
  if (threads == 1) return;
  const uint32_t now = phase.load(std::memory_order_acquire);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    arrived.store(0, std::memory_order_relaxed);
    phase.store(now + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; phase.load(std::memory_order_acquire) == now; ++spins) {
    if (spins < 20000) pauseCore();
    else std::this_thread::yield();  // more threads than cores: let the others arrive
  }
}

void runRegion(int threads, RegionFn fn, void* context) {
  const int most = numThreads();
  if (threads > most) threads = most;
  if (threads <= 1 || inRegion) return fn(context, 0, 1);
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.region);
  p.grow(threads - 1);
  p.fn = fn;
  p.context = context;
  p.threads = threads;
  p.pending.store(threads - 1);
  const uint32_t before = p.finished.load();
  for (int i = 0; i < threads - 1; ++i) {
    Worker& worker = *p.workers[size_t(i)];
    announce(worker.turn, worker.turn.load() + 1, worker.sleepers);
  }
  inRegion = true;
  fn(context, 0, threads);
  inRegion = false;
  awaitChange(p.finished, before, p.finishSleepers);
}

}  // namespace fp8lm
