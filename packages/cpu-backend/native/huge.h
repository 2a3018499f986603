// Buffers of the kernels' own (partial sums, undo copies), on huge pages from 2 MiB on like the tensors of memory.cc.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fp8lm {

/// Bytes aligned to 64 that only grow; contents are lost when they do.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
  ~HugeBuffer() { std::free(data_); }

  uint8_t* atLeast(size_t bytes) {
    if (bytes <= size_ && data_) return data_;
    std::free(data_);
    data_ = nullptr;
    const size_t page = bytes >= kHuge ? kHuge : 64;
    size_ = (bytes + page) / page * page;
    data_ = static_cast<uint8_t*>(std::aligned_alloc(page, size_));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (page == kHuge) madvise(data_, size_, MADV_HUGEPAGE);
#endif
    return data_;
  }

 private:
  static constexpr size_t kHuge = size_t(2) << 20;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fp8lm
