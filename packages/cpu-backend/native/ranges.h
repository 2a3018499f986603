// How the memory-bound kernels share their elements among threads: contiguous ranges whose borders are multiples of 64
// elements (no two threads write one cache line, and only the last range has a tail), serial below 16 k elements.
// Sums go over fixed chunks that depend on the size alone, combined in order: the same bits for any number of threads.
#pragma once
#include <cstdint>
#include <vector>

#include "threads.h"

namespace fp8lm {

constexpr int64_t kBlock = 64, kSerial = 16384;

/// f(thread, begin, end) over [0, n).
template <class F> void forRanges(int64_t n, F&& f, int64_t serial = kSerial) {
  parallelFor((n + kBlock - 1) / kBlock, serial / kBlock, [&](int thread, int64_t begin, int64_t end) {
    f(thread, begin * kBlock, end * kBlock < n ? end * kBlock : n);
  });
}

/// f(thread, begin, end) over rows of `dim` elements.
template <class F> void forRows(int64_t rows, int64_t dim, F&& f) {
  parallelFor(rows, dim < kSerial ? kSerial / (dim > 0 ? dim : 1) : 1, f);
}

/// Merges f(begin, end) over ranges of [0, n); Result has merge(const Result&), which must not depend on order.
template <class Result, class F> Result mergeRanges(int64_t n, F&& f) {
  std::vector<Result> parts(static_cast<size_t>(numThreads()));
  forRanges(n, [&](int thread, int64_t begin, int64_t end) { parts[size_t(thread)] = f(begin, end); });
  for (size_t i = 1; i < parts.size(); i++) parts[0].merge(parts[i]);
  return parts[0];
}

/// Rows split into chunks for column sums: at least 32 rows each and at most 32 chunks.
struct RowChunks {
  int64_t rows, size, count;
  explicit RowChunks(int64_t rows_) : rows(rows_) {
    size = (rows + 31) / 32;
    if (size < 32) size = 32;
    count = (rows + size - 1) / size;
  }
  int64_t begin(int64_t chunk) const { return chunk * size; }
  int64_t end(int64_t chunk) const { return (chunk + 1) * size < rows ? (chunk + 1) * size : rows; }
};

/// A float buffer of this thread, at least n long, kept between calls. `slot` tells buffers in use together apart.
inline float* scratchFloats(size_t n, int slot = 0) {
  static thread_local std::vector<float> buffers[4];
  if (buffers[slot].size() < n) buffers[slot].resize(n);
  return buffers[slot].data();
}

}  // namespace fp8lm
