// Sums over rows, in a fixed order: blocks have some columns of a chunk of rows, the chunks' sums go to device memory and a
// second kernel adds them up. No atomics, so the same bits each time.
#pragma once
#include "context.h"
#include "formats.h"

namespace fp8lm {

constexpr int kColumnThreads = 128, kRowsPerChunk = 64, kMostChunks = 256;

/// Values(r, c, out[N]): what column c of row r adds to each of N sums. One column a thread: for rows of any length.
template <int N, class Values>
__global__ void __launch_bounds__(kColumnThreads, 8) columnPartialsKernel(Values values, Ptr<float> partials, int64_t rows, int64_t dim, int64_t rowsPerChunk) {
  beginKernel();
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, chunk = blockIdx.y;
  if (c >= dim) return;
  float sum[N] = {};
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

constexpr int kTotalColumns = 32, kTotalParts = 16, kTotalThreads = kTotalColumns * kTotalParts;

/// y0[c] += the sum over chunks of partials [chunks, N, dim], and y1 (may be null) that of the second ones. A block has 32
/// columns of one of the sums; its warps share the chunks.
template <int N>
__global__ void __launch_bounds__(kTotalThreads, 2) columnTotalsKernel(Ptr<float> y0, Ptr<float> y1, Ptr<const float> partials, int64_t dim, int64_t chunks) {
  beginKernel();
  FP8_SHARED(float, parts, kTotalThreads);
  const int column = int(threadIdx.x) % kTotalColumns, part = int(threadIdx.x) / kTotalColumns, k = int(blockIdx.y);
  const int64_t c = int64_t(blockIdx.x) * kTotalColumns + column;
  const Ptr<float> y = k == 0 ? y0 : y1;
  if (!y) return;
  float sum = 0.0f;
  if (c < dim) {
#pragma unroll 8
    for (int64_t p = part; p < chunks; p += kTotalParts) sum = math::add(sum, partials[(p * N + k) * dim + c]);
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || c >= dim) return;
  for (int q = 1; q < kTotalParts; q++) sum = math::add(sum, parts[q * kTotalColumns + column]);
  y[c] += sum;
}

template <int N> inline void addTotals(const char* name, Ptr<float> y0, Ptr<float> y1, Ptr<const float> partials, int64_t dim, int64_t chunks) {
  launch(name, columnTotalsKernel<N>, dim3(unsigned((dim + kTotalColumns - 1) / kTotalColumns), unsigned(N)), dim3(kTotalThreads), y0, y1, partials, dim, chunks);
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
  addTotals<N>(name, y0, y1, p, dim, chunks);
}

constexpr int kSumColumns = 32, kSumRows = 8, kSumThreads = kSumColumns * kSumRows, kSumWidth = 8, kSumAhead = 4;

/// Partial sums of x's columns: a thread has 8 neighbouring columns, the eight warps of a block share its chunk of rows.
/// `also` sees each vector on the way: begin(), each(i, v), end(). dim is a multiple of 8, x aligned.
template <DType X, class Also>
__global__ void __launch_bounds__(kSumThreads, 3) sumColumnsKernel(Ptr<float> partials, Input<X> x, Also also, int64_t rows, int64_t dim, int64_t rowsPerChunk) {
  beginKernel();
  FP8_SHARED(float, parts, kSumThreads * kSumWidth);
  const int warp = warpOf();
  const int64_t c = (int64_t(blockIdx.x) * kSumColumns + laneOf()) * kSumWidth, chunk = blockIdx.y;
  const int64_t end = (chunk + 1) * rowsPerChunk < rows ? (chunk + 1) * rowsPerChunk : rows;
  float sum[kSumWidth] = {};
  also.begin();
  if (c < dim) {
    for (int64_t first = chunk * rowsPerChunk + warp; first < end; first += kSumAhead * kSumRows) {
      Packed<X, kSumWidth> raw[kSumAhead];
#pragma unroll
      for (int q = 0; q < kSumAhead; q++)
        if (first + q * kSumRows < end) loadWords(x.data, (first + q * kSumRows) * dim + c, raw[q].w);
#pragma unroll
      for (int q = 0; q < kSumAhead; q++) {
        if (first + q * kSumRows >= end) continue;
        float v[kSumWidth];
        unpack(raw[q], v);
#pragma unroll
        for (int k = 0; k < kSumWidth; k++) sum[k] = math::add(sum[k], v[k]);
        also.each((first + q * kSumRows) * dim + c, v);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kSumWidth; k++) parts[(warp * kSumWidth + k) * kSumColumns + laneOf()] = sum[k];
  __syncthreads();
  // Warp k adds up column k of each lane's eight.
  float total = 0.0f;
  for (int w = 0; w < kSumRows; w++) total = math::add(total, parts[(w * kSumWidth + warp) * kSumColumns + laneOf()]);
  if (c < dim) partials[chunk * dim + c + warp] = total;
  also.end();
}

struct NothingElse {
  __device__ __forceinline__ void begin() {}
  __device__ __forceinline__ void each(int64_t, const float (&)[kSumWidth]) {}
  __device__ __forceinline__ void end() {}
};

/// y[c] += the sum of x's column c, for x that is aligned and of whole vectors.
template <DType X, class Also> inline void sumColumns(const char* name, const Input<X>& x, const Also& also, Ptr<float> y, int64_t rows, int64_t dim) {
  const auto kernel = &sumColumnsKernel<X, Also>;
  const int64_t blocks = (dim + kSumColumns * kSumWidth - 1) / (kSumColumns * kSumWidth);
  // As many chunks as keep the device busy, of at least four rows a warp.
  int64_t chunks = int64_t(residentBlocks(kernel, kSumThreads)) / blocks;
  const int64_t most = (rows + kSumAhead * kSumRows - 1) / (kSumAhead * kSumRows);
  chunks = chunks < 1 ? 1 : chunks > most ? most : chunks;
  const int64_t perChunk = (rows + chunks - 1) / chunks;
  chunks = (rows + perChunk - 1) / perChunk;
  const Scratch partials(size_t(chunks * dim) * sizeof(float));
  const Ptr<float> p = partials.as<float>("partial column sums");
  launch(name, kernel, dim3(unsigned(blocks), unsigned(chunks)), dim3(kSumThreads), p, x, also, rows, dim, perChunk);
  addTotals<1>(name, y, nullptr, p, dim, chunks);
}

/// The tensor's own values.
template <DType X> struct ColumnValues {
  Input<X> x;
  __device__ __forceinline__ void at(int64_t r, int64_t c, int64_t dim, float v[1]) const { v[0] = x.one(r * dim + c, 1.0f); }
};

/// y[c] += the sum of x's column c.
template <DType X> inline void addColumnsOf(const char* name, const Input<X>& x, Ptr<float> y, int64_t rows, int64_t dim) {
  if (rows == 0 || dim == 0) return;
  if (x.aligned && dim % kSumWidth == 0) sumColumns(name, x, NothingElse{}, y, rows, dim);
  else addColumns<1>(name, ColumnValues<X>{x}, y, nullptr, rows, dim);
}

}  // namespace fp8lm
