// How the memory-bound kernels share their elements among threads: contiguous pieces whose borders are multiples of 64
// elements (no two threads write one cache line, and only the last range has a tail), serial below 16 k elements.
// Sums go over fixed chunks that depend on the size alone, combined in order: the same bits for any number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "huge.h"
#include "threads.h"

namespace fp8lm {

constexpr int64_t kBlock = 64, kSerial = 16384;
constexpr int64_t kSerialMath = 4096;  // for ops with exp in them: about 1 us

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
template <class Result, class F> Result mergeRanges(int64_t n, F&& f, int64_t serial = kSerial) {
  std::vector<Result> parts(static_cast<size_t>(numThreads()));
  const auto part = [&](int thread, int64_t begin, int64_t end) { parts[size_t(thread)].merge(f(begin, end)); };
  forRanges(n, part, serial);
  for (size_t i = 1; i < parts.size(); i++) parts[0].merge(parts[i]);
  return parts[0];
}

/// The same over rows of `dim` elements.
template <class Result, class F> Result mergeRows(int64_t rows, int64_t dim, F&& f) {
  std::vector<Result> parts(static_cast<size_t>(numThreads()));
  forRows(rows, dim, [&](int thread, int64_t begin, int64_t end) { parts[size_t(thread)].merge(f(begin, end)); });
  for (size_t i = 1; i < parts.size(); i++) parts[0].merge(parts[i]);
  return parts[0];
}

/// Rows split into chunks for column sums: at most 32 chunks, of at least 32 rows each and a multiple of 8.
struct RowChunks {
  int64_t rows, size, count;
  explicit RowChunks(int64_t rows_) : rows(rows_) {
    size = (rows + 255) / 256 * 8;
    if (size < 32) size = 32;
    count = (rows + size - 1) / size;
  }
  int64_t begin(int64_t chunk) const { return chunk * size; }
  int64_t end(int64_t chunk) const { return (chunk + 1) * size < rows ? (chunk + 1) * size : rows; }
};

/// A float buffer of this thread, at least n long, kept between calls.
inline float* scratchFloats(size_t n) {
  static thread_local HugeBuffer buffer;
  return reinterpret_cast<float*>(buffer.atLeast(n * sizeof(float)));
}

/// Runs f(thread, partial, begin, end) on each chunk of rows, `partial` being `width` floats of the chunk's own (not
/// cleared), then adds up the partials in chunk order: sums[0] gets their first `dim` columns, sums[1] the next. Either
/// may be null.
template <class F>
void addChunks(const RowChunks& chunks, int64_t width, int64_t dim, float* const (&sums)[2], F&& f) {
  float* const partials = scratchFloats(size_t(chunks.count * width));
  parallelFor(chunks.count, kSerial / (chunks.size * width + 1) + 1, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) f(thread, partials + c * width, chunks.begin(c), chunks.end(c));
  });
  for (int64_t c = 0; c < chunks.count; c++)
    for (int half = 0; half < 2; half++)
      for (int64_t k = 0; sums[half] && k < dim; k++) sums[half][k] += partials[c * width + half * dim + k];
}

}  // namespace fp8lm
