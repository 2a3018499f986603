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

// Spins for `spin` until done(word), then sleeps. `sleepers` tells the writer that a wake-up is needed; both sides use
// sequentially consistent order, so either the writer sees the sleeper or the sleeper sees the new value.
template <class F>
uint32_t awaitWord(std::atomic<uint32_t>& word, std::atomic<int>& sleepers, std::chrono::microseconds spin, F&& done) {
  uint32_t now;
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 64; ++i) {
      if (done(now = word.load(std::memory_order_acquire))) return now;
      pauseCore();
    }
  } while (std::chrono::steady_clock::now() - start < spin);
  sleepers.fetch_add(1);
  while (!done(now = word.load())) sleepOn(word, now);
  sleepers.fetch_sub(1);
  return now;
}

void announce(std::atomic<uint32_t>& word, uint32_t value, std::atomic<int>& sleepers) {
  word.store(value);
  if (sleepers.load() > 0) wakeAll(word);
}

// A worker waits for the next kernel a little longer than a closing caller for a last piece: while the caller sleeps, its
// core can take over the worker that lost its own.
constexpr std::chrono::microseconds kSpinForWork{50}, kSpinForPiece{20};

struct alignas(64) Worker {
  std::atomic<uint32_t> turn{0};  // changes when there is a region for this worker
  std::atomic<int> sleepers{0};
};

struct Pool {
  std::mutex region;  // held for the length of a region
  std::vector<Worker*> workers;
  RegionFn fn = nullptr;  // this and the next two change only while the gate is closed and nobody inside
  void* context = nullptr;
  int threads = 1;
  alignas(64) Gate gate;

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
    turn = awaitWord(worker.turn, worker.sleepers, kSpinForWork, [turn](uint32_t now) { return now != turn; });
    if (!gate.enter()) continue;  // too late: the others have done it all
    if (thread < threads) fn(context, thread);
    gate.leave();
  }
}

// Never destroyed: workers may still be asleep on it when static destructors run.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

int positive(const char* variable) {
  const char* const text = std::getenv(variable);
  const int n = text ? std::atoi(text) : 0;
  return n > 0 ? n : 0;
}

/// Ranks on this machine, as torchrun's, Open MPI's and MPICH's launchers say; 1 without them.
int localRanks() {
  for (const char* name : {"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"})
    if (const int n = positive(name)) return n;
  return 1;
}

int availableCores() {
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

int defaultThreads() {
  if (const int n = positive("FP8_THREADS")) return n;
  const int n = availableCores() / localRanks();
  return n > 1 ? n : 1;
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

void Gate::await() {
  awaitWord(state_, sleepers_, kSpinForPiece, [](uint32_t now) { return now == 0; });
}

void Gate::wake() {
  if (sleepers_.load() > 0) wakeAll(state_);
}

void runRegion(int threads, RegionFn fn, void* context) {
  const int most = numThreads();
  if (threads > most) threads = most;
  if (threads <= 1 || inRegion) return fn(context, 0);
  Pool& p = pool();
  std::unique_lock<std::mutex> lock(p.region, std::try_to_lock);
  if (!lock.owns_lock()) return fn(context, 0);
  p.grow(threads - 1);
  p.fn = fn;
  p.context = context;
  p.threads = threads;
  p.gate.open();
  for (int i = 0; i < threads - 1; ++i) {
    Worker& worker = *p.workers[size_t(i)];
    announce(worker.turn, worker.turn.load() + 1, worker.sleepers);
  }
  inRegion = true;
  fn(context, 0);
  inRegion = false;
  p.gate.close();
}

}  // namespace fp8lm
