// A cast to FP8 that writes its result and the transpose of it, and sums x's columns, in one pass over x: what backward needs
// of a gradient, 2 bytes read and 2 written an element where separate passes move 7.
//
// Two blocks a multiprocessor deal the tiles of 128 x 64 out among them; with more under way at once an H200 is slower where the
// tensor is large. The next tile is on its way in registers while the codes of this one go through shared memory to the
// transpose, and each block reports its amax and counts a single time. Half of the threads transpose a tile, others meanwhile add up
// its columns. The column sums of a row of tiles go to device memory as in columns.h.
#pragma once
#include "columns.h"
#include "map.h"
#include "transpose.h"

namespace fp8lm {

using WaysTile = Tile<128, 64>;
constexpr int kWaysThreads = 2 * WaysTile::kThreads, kWaysBlocks = 2;  // of a block; blocks of a multiprocessor
constexpr int kWaysWidth = 8, kWaysAcross = WaysTile::kColumns / kWaysWidth, kWaysStep = kWaysThreads / kWaysAcross, kWaysCount = WaysTile::kRows / kWaysStep;

/// What a thread has of a tile of x: 8 columns of every 32nd row.
struct WaysRows {
  Packed<DType::bf16, kWaysWidth> raw[kWaysCount];

  /// Elements i to i + 7 and those of every `stride` after them; zeros from row `left` on, counted from the first of them.
  __device__ __forceinline__ void fetch(const Ptr<const uint16_t>& x, int64_t i, int64_t stride, int left) {
    if (left > (kWaysCount - 1) * kWaysStep) {
#pragma unroll
      for (int p = 0; p < kWaysCount; p++, i += stride) loadWords(x, i, raw[p].w);
      return;
    }
#pragma unroll
    for (int p = 0; p < kWaysCount; p++, i += stride) {
      if (p * kWaysStep < left) loadWords(x, i, raw[p].w);
      else raw[p].w[0] = raw[p].w[1] = raw[p].w[2] = raw[p].w[3] = 0u;
    }
  }

  /// Adds its amax, found on pairs as they are stored, and what will saturate. Where the largest is in range, all are.
  __device__ __forceinline__ void addTo(Seen& seen, float scale, float max) const {
    uint32_t pair = 0u;
#pragma unroll
    for (int p = 0; p < kWaysCount; p++) {
#pragma unroll
      for (int k = 0; k < kWaysWidth / 2; k++) pair = maxMagnitudes(pair, raw[p].w[k]);
    }
    const uint32_t high = pair & 0xffff0000u, low = pair << 16, largest = high > low ? high : low;
    if (largest > seen.largest) seen.largest = largest;
    if (__builtin_expect(math::mul(floatOf(largest), scale) <= max, true)) return;
#pragma unroll
    for (int p = 0; p < kWaysCount; p++) {
      float v[kWaysWidth];
      unpack(raw[p], v);
#pragma unroll
      for (int k = 0; k < kWaysWidth; k++) seen.saturated += fabsf(math::mul(v[k], scale)) > max ? 1u : 0u;
    }
  }
};

/// @param partials null, or a row of column sums for each row of tiles
template <DType Y>
__global__ void __launch_bounds__(kWaysThreads, 3)
    castBothWaysKernel(Ptr<uint8_t> y, Ptr<uint8_t> transposed, Ptr<float> transposedBlock, Ptr<float> partials, Input<DType::bf16> x, ScaleJob job, int rows, int cols, int tilesAcross) {
  beginKernel();
  using T = WaysTile;
  FP8_SHARED(uint32_t, tile, T::kWords);
  FP8_SHARED(float, parts, kWaysStep * T::kColumns);
  const int across = int(threadIdx.x) % kWaysAcross * kWaysWidth, down = int(threadIdx.x) / kWaysAcross;
  const int64_t stride = int64_t(kWaysStep) * cols;
  // From a tile of this block to the next one, without a division.
  const int moreRows = int(gridDim.x) / tilesAcross * T::kRows, moreColumns = int(gridDim.x) % tilesAcross * T::kColumns;
  int row = int(blockIdx.x) / tilesAcross * T::kRows, column = int(blockIdx.x) % tilesAcross * T::kColumns;
  const auto leftOf = [&] { return column + across < cols ? rows - row - down : 0; };
  const auto first = [&] { return int64_t(row + down) * cols + column + across; };
  WaysRows next;
  next.fetch(x.data, first(), stride, leftOf());
  const float scale = chooseScale(job);
  Seen seen;
  while (row < rows) {
    const int firstRow = row, firstColumn = column, left = leftOf();
    next.addTo(seen, scale, job.max);
    float sum[kWaysWidth] = {};
    int64_t to = first();
#pragma unroll
    for (int p = 0; p < kWaysCount; p++, to += stride) {
      float v[kWaysWidth], t[kWaysWidth];
      unpack(next.raw[p], v);
#pragma unroll
      for (int k = 0; k < kWaysWidth; k++) {
        t[k] = math::mul(v[k], scale);
        sum[k] = math::add(sum[k], v[k]);
      }
      const Packed<Y, kWaysWidth> codes = pack<Y>(t);
      if (p * kWaysStep < left) storeWords(y, to, codes.w);
      storeShared(tile, T::at(down + p * kWaysStep, across / 4), codes.w);
    }
    if (partials) {
#pragma unroll
      for (int k = 0; k < kWaysWidth; k += 4) storeShared(parts, down * T::kColumns + across + k, {sum[k], sum[k + 1], sum[k + 2], sum[k + 3]});
    }
    row += moreRows, column += moreColumns;
    if (column >= tilesAcross * T::kColumns) column -= tilesAcross * T::kColumns, row += T::kRows;
    if (row < rows) next.fetch(x.data, first(), stride, leftOf());
    __syncthreads();
    const int c = int(threadIdx.x) - T::kThreads;
    if (c < 0) {
      T::storeTransposed(transposed, tile, firstRow, firstColumn, rows, cols, rows);
    } else if (partials && c < T::kColumns && firstColumn + c < cols) {
      float total = 0.0f;
#pragma unroll
      for (int d = 0; d < kWaysStep; d++) total = math::add(total, parts[d * T::kColumns + c]);
      partials[int64_t(firstRow / T::kRows) * cols + firstColumn + c] = total;
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
    const int64_t most = int64_t(kWaysBlocks) * device().multiprocessors;
    launch("quantize_rows", kernel, dim3(unsigned(across * down < most ? across * down : most)), dim3(kWaysThreads), ptr<uint8_t>(y, "y"), ptr<uint8_t>(transposed, "transposed"),
           scalePtr(transposed, "transposed's scale block"), partialSums, input<DType::bf16>(x, "x"), job, int(rows), int(cols), int(across));
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
