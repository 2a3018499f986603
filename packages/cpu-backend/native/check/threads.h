// Checks of the thread pool: each item once, whoever takes it, with more threads than cores and several callers at once.
#pragma once
#include <atomic>
#include <thread>

#include "check.h"

namespace check {

inline void checkEachItemOnce(int64_t count, int64_t grain) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
  std::atomic<int> outside{0};
  parallelFor(count, grain, [&](int thread, int64_t begin, int64_t end) {
    if (thread < 0 || thread >= numThreads() || begin < 0 || end > count || begin >= end) outside++;
    for (int64_t i = begin; i < end; i++) seen[size_t(i)]++;
  });
  if (outside) fail("a piece or a thread outside its range");
  for (auto& s : seen)
    if (s != 1) return fail("an item was taken " + std::to_string(s) + " times");
}

inline void checkThreads() {
  context = "threads";
  const int before = numThreads();
  for (int threads : {1, 2, 3, 8, 100}) {
    setNumThreads(threads);
    for (int64_t count : {1, 2, 7, 64, 1000, 100003})
      for (int64_t grain : {1, 3, 256}) checkEachItemOnce(count, grain);
    for (int round = 0; round < 3000; round++) checkEachItemOnce(1 + round % 50, 1);
  }
  setNumThreads(3);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; c++)
    callers.emplace_back([] {
      for (int round = 0; round < 2000; round++) checkEachItemOnce(1 + round % 300, 1);
    });
  for (std::thread& t : callers) t.join();
  std::atomic<int> inner{0};
  parallelFor(10, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) parallelFor(5, [&](int, int64_t b, int64_t e) { inner += int(e - b); });
  });
  if (inner != 50) fail("regions inside a region");
  setNumThreads(before);
}

}  // namespace check
