// The caching allocator of a backend: a block that is freed waits in a list of its own size, so that after the first training
// step no tensor costs a call to the system.
#pragma once
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "memory.h"

namespace fp8lm::memory {

/// `System` says where blocks come from, all static and called by one thread at a time:
///   size_t rounded(size_t bytes)          the block that holds so many bytes
///   void* take(size_t size)               null if there is no more
///   void beforeGiving()                   before blocks go back: whoever still uses one is done after it
///   void give(void* block, size_t size)
///   bool isIdle(const Stats&)             whether so much lies unused that it goes back before more is taken
///   void renew(std::vector<float*>& scales)   sets scale blocks that were used to [1, 1, 0, 0]; adds new ones where they are few
template <class System> class Pool {
 public:
  /// @throws std::bad_alloc
  void* allocate(size_t bytes) {
    const size_t size = System::rounded(bytes);
    std::lock_guard<std::mutex> lock(mutex_);
    void* block = reuse(size);
    if (!block) block = take(size);
    stats_.live += int64_t(size);
    if (stats_.live > stats_.peak) stats_.peak = stats_.live;
    return block;
  }

  void release(void* block, size_t bytes) {
    const size_t size = System::rounded(bytes);
    std::lock_guard<std::mutex> lock(mutex_);
    free_[size].push_back(block);
    stats_.live -= int64_t(size);
  }

  float* allocateScale() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (scales_.empty()) {
      System::renew(usedScales_);
      scales_.swap(usedScales_);
    }
    float* const block = scales_.back();
    scales_.pop_back();
    return block;
  }

  void releaseScale(float* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    usedScales_.push_back(block);
  }

  Stats stats() {
    std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }

  void resetPeak() {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.peak = stats_.live;
  }

  void trim() {
    std::lock_guard<std::mutex> lock(mutex_);
    giveBack();
  }

 private:
  void* reuse(size_t size) {
    auto& blocks = free_[size];
    if (blocks.empty()) return nullptr;
    void* const block = blocks.back();
    blocks.pop_back();
    return block;
  }

  void* take(size_t size) {
    if (System::isIdle(stats_)) giveBack();
    void* block = System::take(size);
    if (!block) {
      giveBack();
      block = System::take(size);
    }
    if (!block) throw std::bad_alloc();
    stats_.reserved += int64_t(size);
    return block;
  }

  void giveBack() {
    System::beforeGiving();
    for (auto& [size, blocks] : free_) {
      stats_.reserved -= int64_t(size * blocks.size());
      for (void* block : blocks) System::give(block, size);
    }
    free_.clear();
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;  // by rounded size
  std::vector<float*> scales_, usedScales_;
  Stats stats_;
};

}  // namespace fp8lm::memory
