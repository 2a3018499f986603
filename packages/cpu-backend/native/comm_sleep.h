// Waiting for other processes: spin briefly, then sleep in the kernel on words that others change.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#endif

namespace fp8lm::lane {

using Clock = std::chrono::steady_clock;

inline int64_t nowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

inline void pauseCore() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// A word and the value that it had; `shared` between processes or private to this one.
struct Watch {
  const std::atomic<uint32_t>* word;
  uint32_t seen;
  bool shared;
};

/// Sleeps until one of the words may have changed, or `ns` are over; may return early.
inline void sleepOn(const Watch* list, int count, int64_t ns) {
  for (int i = 0; i < count; i++)
    if (list[i].word->load() != list[i].seen) return;
#if defined(__linux__)
  if (count == 1) {
    const timespec limit{time_t(ns / 1000000000), long(ns % 1000000000)};
    syscall(SYS_futex, list[0].word, list[0].shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, list[0].seen, &limit, nullptr, 0);
    return;
  }
  static std::atomic<bool> refused{false};
  constexpr int kMost = 16;
  if (count > 1 && count <= kMost && !refused.load(std::memory_order_relaxed)) {
    struct {
      uint64_t value, address;
      uint32_t flags, reserved;
    } waiters[kMost];
    for (int i = 0; i < count; i++) waiters[i] = {list[i].seen, uint64_t(list[i].word), list[i].shared ? 2u : 2u | 128u, 0};
    timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const int64_t end = int64_t(until.tv_nsec) + ns;
    until.tv_sec += time_t(end / 1000000000);
    until.tv_nsec = long(end % 1000000000);
    constexpr long kFutexWaitv = 449;
    if (syscall(kFutexWaitv, waiters, count, 0, &until, CLOCK_MONOTONIC) >= 0 || errno == EAGAIN || errno == ETIMEDOUT || errno == EINTR) return;
    refused.store(true, std::memory_order_relaxed);
  }
#endif
  // Kernels before 5.16 cannot sleep on several words.
  std::this_thread::sleep_for(std::chrono::nanoseconds(ns < 100000 ? ns : 100000));
}

inline void wakeAll(const std::atomic<uint32_t>* word, bool shared) {
#if defined(__linux__)
  syscall(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, 0x7fffffff, nullptr, nullptr, 0);
#else
  (void)word, (void)shared;
#endif
}

}  // namespace fp8lm::lane
