// Sums over rows, in a fixed order: every thread has one column of a chunk of rows, the chunks' sums go to device memory and
// a second kernel adds them up. No atomics, so the same bits each time.
#pragma once
#include "context.h"
#include "formats.h"

namespace fp8lm {

constexpr int kColumnThreads = 128, kRowsPerChunk = 64, kMostChunks = 256;

/// Values(r, c, out[N]): what column c of row r adds to each of N sums.
template <int N, class Values>
__global__ void __launch_bounds__(kColumnThreads, 8) columnPartialsKernel(Values values, Ptr<float> partials, int64_t rows, int64_t dim, int64_t rowsPerChunk) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, chunk = blockIdx.y;
  if (c >= dim) return;
  float sum[N] = {};
  values.prepare();
  const int64_t end = (chunk + 1) * rowsPerChunk < rows ? (chunk + 1) * rowsPerChunk : rows;
  for (int64_t r = chunk * rowsPerChunk; r < end; r++) {
    float v[N];
    values.at(r, c, dim, v);
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = math::add(sum[k], v[k]);
  }
#pragma unroll
  for (int k = 0; k < N; k++) partials[(chunk * N + k) * dim + c] = sum[k];
}

template <int N>
__global__ void __launch_bounds__(kColumnThreads, 8) columnTotalsKernel(Ptr<float> y0, Ptr<float> y1, Ptr<const float> partials, int64_t dim, int64_t chunks) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= dim) return;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const Ptr<float> y = k == 0 ? y0 : y1;
    if (!y) continue;
    float sum = 0.0f;
    for (int64_t p = 0; p < chunks; p++) sum = math::add(sum, partials[(p * N + k) * dim + c]);
    y[c] += sum;
  }
}

/// y0[c] += the sum of values over all rows, and y1 (may be null) that of the second value.
template <int N, class Values>
inline void addColumns(const char* name, const Values& values, Ptr<float> y0, Ptr<float> y1, int64_t rows, int64_t dim) {
  if (rows == 0 || dim == 0) return;
  int64_t chunks = (rows + kRowsPerChunk - 1) / kRowsPerChunk;
  if (chunks > kMostChunks) chunks = kMostChunks;
  const int64_t perChunk = (rows + chunks - 1) / chunks;
  chunks = (rows + perChunk - 1) / perChunk;
  const unsigned blocks = unsigned((dim + kColumnThreads - 1) / kColumnThreads);
  const Scratch partials(size_t(chunks * N * dim) * sizeof(float));
  const Ptr<float> p = partials.as<float>("partial column sums");
  launch(name, columnPartialsKernel<N, Values>, dim3(blocks, unsigned(chunks)), dim3(kColumnThreads), values, p, rows, dim, perChunk);
  launch(name, columnTotalsKernel<N>, dim3(blocks), dim3(kColumnThreads), y0, y1, p, dim, chunks);
}

/// The tensor's own values.
template <DType X> struct ColumnValues {
  Input<X> x;
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void at(int64_t r, int64_t c, int64_t dim, float v[1]) const { v[0] = x.one(r * dim + c, 1.0f); }
};

}  // namespace fp8lm
