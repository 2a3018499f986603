// A cast to FP8 that writes its result and the transpose of it, and sums x's columns, in one pass over x: what backward needs
// of a gradient, 2 bytes read and 2 written an element where separate passes move 7.
//
// A thread has a 16 x 16 square, as in transpose.h; a block 256 rows x 128 columns, whose column sums go to device memory in
// the order of columns.h.
#pragma once
#include "columns.h"
#include "map.h"
#include "transpose.h"

namespace fp8lm {

constexpr int kBlockRows = kSquaresDown * kSquare, kBlockColumns = kSquaresAcross * kSquare;

template <DType Y>
__global__ void __launch_bounds__(kSquareThreads, 2)
    castBothWaysKernel(Ptr<uint8_t> y, Ptr<uint8_t> transposed, Ptr<float> transposedBlock, Ptr<float> partials, Input<DType::bf16> x, ScaleJob job, int64_t rows, int64_t cols) {
  FP8_SHARED(float, parts, kSquaresDown * kBlockColumns);
  const int across = int(threadIdx.x) % kSquaresAcross, down = int(threadIdx.x) / kSquaresAcross;
  const int64_t row = (int64_t(blockIdx.y) * kSquaresDown + down) * kSquare, column = (int64_t(blockIdx.x) * kSquaresAcross + across) * kSquare;
  const bool inside = row < rows && column < cols;
  const float scale = chooseScale(job);
  Seen seen;
  float sum[kSquare] = {};
  if (inside) {
    uint32_t square[kSquare][4];
#pragma unroll
    for (int r = 0; r < kSquare; r++) {
      float v[kSquare], t[kSquare];
      unpack(x.template fetch<kSquare>((row + r) * cols + column, kSquare), v);
#pragma unroll
      for (int k = 0; k < kSquare; k++) {
        t[k] = math::mul(v[k], scale);
        sum[k] = math::add(sum[k], v[k]);
      }
      seen.add(v, t, scale, job.max);
      const Packed<Y, kSquare> packed = pack<Y>(t);
#pragma unroll
      for (int q = 0; q < 4; q++) square[r][q] = packed.w[q];
      storeWords(y, (row + r) * cols + column, square[r]);
    }
    storeTransposed(transposed, square, row, column, rows);
  }
  if (partials) {
#pragma unroll
    for (int k = 0; k < kSquare; k++) parts[down * kBlockColumns + across * kSquare + k] = sum[k];
    __syncthreads();
    const int64_t c = int64_t(blockIdx.x) * kBlockColumns + threadIdx.x;  // as many threads as columns
    float total = 0.0f;
    for (int d = 0; d < kSquaresDown; d++) total = math::add(total, parts[d * kBlockColumns + int(threadIdx.x)]);
    if (c < cols) partials[int64_t(blockIdx.y) * cols + c] = total;
  }
  report(job, seen);
  if (!lastBlock(job.words + kTicket) || threadIdx.x > 0) return;
  finish(job, scale);
  for (int i = 0; i < kScaleBlock; i++) transposedBlock[i] = job.block[i];
}
static_assert(kSquareThreads == kBlockColumns, "a thread adds up one column");

/// @returns false for others than bf16 and where rows, columns or addresses are no multiples of 16: nothing was queued then
inline bool castBothWays(const Tensor& y, const Tensor& transposed, const Tensor& sums, const Tensor& x, const ScaleJob& job, int64_t rows, int64_t cols) {
  if (x.dtype != DType::bf16 || rows % kSquare || cols % kSquare || rows == 0 || cols == 0 || !isAligned(y) || !isAligned(transposed) || !isAligned(x)) return false;
  const dim3 grid(unsigned((cols + kBlockColumns - 1) / kBlockColumns), unsigned((rows + kBlockRows - 1) / kBlockRows));
  const Scratch partials(sums ? size_t(grid.y) * size_t(cols) * sizeof(float) : 0);
  const Ptr<float> none{};
  withFp8(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    using X = Plain<DType::bf16>;
    launchGroups("quantize_rows", measureKernel<X>, rows * cols, X(x), job);
    launch("quantize_rows", castBothWaysKernel<Y>, grid, dim3(kSquareThreads), ptr<uint8_t>(y, "y"), ptr<uint8_t>(transposed, "transposed"),
           scalePtr(transposed, "transposed's scale block"), sums ? partials.as<float>("partial column sums") : none, input<DType::bf16>(x, "x"), job, rows, cols);
  });
  if (sums) addTotals<1>("column_sums", ptr<float>(sums, "sums"), none, partials.as<float>("partial column sums"), cols, int64_t(grid.y));
  return true;
}

/// The same of a result that lies anywhere: element by element.
static __global__ void __launch_bounds__(kThreads, 3) transposeAnyKernel(Ptr<uint8_t> y, Ptr<const uint8_t> x, Ptr<float> toBlock, Ptr<const float> fromBlock, int64_t rows, int64_t cols) {
  const int64_t n = rows * cols, stride = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < n; i += stride) y[i] = x[i % rows * cols + i / rows];
  if (first < kScaleBlock) toBlock[first] = fromBlock[first];
}

inline void transposeOf(const Tensor& y, const Tensor& x, int64_t rows, int64_t cols) {
  launch("transpose", transposeAnyKernel, dim3(blocksFor(rows * cols, kThreads * 4)), dim3(kThreads), ptr<uint8_t>(y, "transposed"), ptr<const uint8_t>(x, "y"),
         scalePtr(y, "transposed's scale block"), scalePtr(x, "y's scale block"), rows, cols);
}

}  // namespace fp8lm
