// A cast to FP8 that writes its result and the transpose of it, and sums x's columns, in one pass over x: what backward needs
// of a gradient, 2 bytes read and 2 written an element where separate passes move 7.
//
// All blocks are resident at once and take every so manieth tile of 128 x 64. The next tile is on its way in registers while the codes of
// this one go through shared memory to the transpose, and each block reports its amax and counts a single time. The column sums of a
// row of tiles go to device memory as in columns.h.
#pragma once
#include "columns.h"
#include "map.h"
#include "transpose.h"

namespace fp8lm {

using WaysTile = Tile<128, 64>;
constexpr int kWaysWidth = 8, kWaysAcross = WaysTile::kColumns / kWaysWidth, kWaysStep = WaysTile::kThreads / kWaysAcross, kWaysCount = WaysTile::kRows / kWaysStep;
constexpr int kWaysWarps = WaysTile::kThreads / kWarp;

/// What a thread has of a tile of x: 8 columns of every 16th row.
struct WaysRows {
  Packed<DType::bf16, kWaysWidth> raw[kWaysCount];
  /// From `row` on; zeros beyond the tensor.
  __device__ __forceinline__ void fetch(const Input<DType::bf16>& x, int row, int column, int rows, int cols) {
#pragma unroll
    for (int p = 0; p < kWaysCount; p++) {
      if (row + p * kWaysStep < rows && column < cols) {
        loadWords(x.data, int64_t(row + p * kWaysStep) * cols + column, raw[p].w);
      } else {
#pragma unroll
        for (int k = 0; k < kWaysWidth / 2; k++) raw[p].w[k] = 0u;
      }
    }
  }
};

/// @param partials null, or a row of column sums for each row of tiles
template <DType Y>
__global__ void __launch_bounds__(WaysTile::kThreads, 5)
    castBothWaysKernel(Ptr<uint8_t> y, Ptr<uint8_t> transposed, Ptr<float> transposedBlock, Ptr<float> partials, Input<DType::bf16> x, ScaleJob job, int rows, int cols, int tilesAcross, int tiles) {
  beginKernel();
  using T = WaysTile;
  FP8_SHARED(uint32_t, tile, T::kWords);
  FP8_SHARED(float, parts, kWaysWarps * T::kColumns);
  const int across = int(threadIdx.x) % kWaysAcross * kWaysWidth, down = int(threadIdx.x) / kWaysAcross;
  const auto rowOf = [&](int t) { return t / tilesAcross * T::kRows; };
  const auto columnOf = [&](int t) { return t % tilesAcross * T::kColumns; };
  int t = int(blockIdx.x);
  WaysRows next;
  next.fetch(x, rowOf(t) + down, columnOf(t) + across, rows, cols);
  const float scale = chooseScale(job);
  Seen seen;
  for (; t < tiles; t += int(gridDim.x)) {
    const int firstRow = rowOf(t), firstColumn = columnOf(t);
    float sum[kWaysWidth] = {};
#pragma unroll
    for (int p = 0; p < kWaysCount; p++) {
      const int r = down + p * kWaysStep;
      float v[kWaysWidth], s[kWaysWidth];
      unpack(next.raw[p], v);
#pragma unroll
      for (int k = 0; k < kWaysWidth; k++) {
        s[k] = math::mul(v[k], scale);
        sum[k] = math::add(sum[k], v[k]);
      }
      seen.add(v, s, scale, job.max);
      const Packed<Y, kWaysWidth> packed = pack<Y>(s);
      if (firstRow + r < rows && firstColumn + across < cols) storeWords(y, int64_t(firstRow + r) * cols + firstColumn + across, packed.w);
      storeShared(tile, T::at(r, across / 4), packed.w);
    }
    if (t + int(gridDim.x) < tiles) next.fetch(x, rowOf(t + int(gridDim.x)) + down, columnOf(t + int(gridDim.x)) + across, rows, cols);
    if (partials) {
#pragma unroll
      for (int k = 0; k < kWaysWidth; k++) {
        for (int d = kWaysAcross; d < kWarp; d *= 2) sum[k] = math::add(sum[k], __shfl_xor_sync(kAllLanes, sum[k], d));
        if (laneOf() < kWaysAcross) parts[warpOf() * T::kColumns + across + k] = sum[k];
      }
    }
    __syncthreads();
    T::storeTransposed(transposed, tile, firstRow, firstColumn, rows, cols, rows);
    if (partials && int(threadIdx.x) < T::kColumns && firstColumn + int(threadIdx.x) < cols) {
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < kWaysWarps; w++) total = math::add(total, parts[w * T::kColumns + int(threadIdx.x)]);
      partials[int64_t(t / tilesAcross) * cols + firstColumn + threadIdx.x] = total;
    }
    __syncthreads();
  }
  if (!lastToReport(job, seen)) return;
  finish(job, scale);
  for (int i = 0; i < kScaleBlock; i++) transposedBlock[i] = job.block[i];
}

/// @returns false for others than bf16, where rows, columns or addresses are no multiples of 16, and for too many of them: nothing was
/// queued then
inline bool castBothWays(const Tensor& y, const Tensor& transposed, const Tensor& sums, const Tensor& x, const ScaleJob& job, int64_t rows, int64_t cols) {
  if (x.dtype != DType::bf16 || rows % kSquare || cols % kSquare || rows == 0 || cols == 0 || !isAligned(y) || !isAligned(transposed) || !isAligned(x)) return false;
  if (rows > (int64_t(1) << 30) || cols > (int64_t(1) << 30)) return false;
  const int64_t across = (cols + WaysTile::kColumns - 1) / WaysTile::kColumns, down = (rows + WaysTile::kRows - 1) / WaysTile::kRows;
  const Scratch partials(sums ? size_t(down * cols) * sizeof(float) : 0);
  const Ptr<float> none{}, partialSums = sums ? partials.as<float>("partial column sums") : none;
  withFp8(y.dtype, [&](auto d) {
    const auto kernel = &castBothWaysKernel<decltype(d)::value>;
    launchMeasure("quantize_rows", Plain<DType::bf16>(x), job, rows * cols);
    launch("quantize_rows", kernel, dim3(blocksOf(kernel, across * down, 1, WaysTile::kThreads)), dim3(WaysTile::kThreads), ptr<uint8_t>(y, "y"), ptr<uint8_t>(transposed, "transposed"),
           scalePtr(transposed, "transposed's scale block"), partialSums, input<DType::bf16>(x, "x"), job, int(rows), int(cols), int(across), int(across * down));
  });
  if (sums) addTotals<1>("column_sums", ptr<float>(sums, "sums"), none, partialSums, cols, down);
  return true;
}

/// The same of a result that lies anywhere: element by element.
static __global__ void __launch_bounds__(kThreads, 3) transposeAnyKernel(Ptr<uint8_t> y, Ptr<const uint8_t> x, Ptr<float> toBlock, Ptr<const float> fromBlock, int64_t rows, int64_t cols) {
  beginKernel();
  const int64_t n = rows * cols, stride = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < n; i += stride) y[i] = x[i % rows * cols + i / rows];
  if (first < kScaleBlock) toBlock[first] = fromBlock[first];
}

inline void transposeOf(const Tensor& y, const Tensor& x, int64_t rows, int64_t cols) {
  launch("transpose", transposeAnyKernel, dim3(blocksFor(rows * cols, kThreads * 4)), dim3(kThreads), ptr<uint8_t>(y, "transposed"), ptr<const uint8_t>(x, "y"),
         scalePtr(y, "transposed's scale block"), scalePtr(x, "y's scale block"), rows, cols);
}

}  // namespace fp8lm
