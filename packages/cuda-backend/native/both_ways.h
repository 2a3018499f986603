// A cast to FP8 that writes its result and the transpose of it, and sums x's columns, in one pass over x: what backward needs
// of a gradient, 2 bytes read and 2 written an element where separate passes move 7.
//
// A block has a square of 128 x 128. Its threads read and write rows; the codes go through shared memory, where each thread
// then takes 16 rows of four columns and turns them with byte permutes. Its column sums go to device memory as in columns.h.
#pragma once
#include "columns.h"
#include "map.h"
#include "transpose.h"

namespace fp8lm {

constexpr int kBothSide = 128, kBothThreads = 256, kBothWarps = kBothThreads / kWarp;
constexpr int kAcross = kBothSide / kSquare, kDown = kBothThreads / kAcross;

/// Where in the tile word `word` of row `row` lies: chunks of 16 bytes are swapped so that neither rows nor columns of
/// patches meet in a bank.
__device__ __forceinline__ int tileWord(int row, int word) { return row * (kBothSide / 4) + ((word / 4) ^ (row / kSquare)) * 4 + word % 4; }

template <DType Y>
__global__ void __launch_bounds__(kBothThreads, 3)
    castBothWaysKernel(Ptr<uint8_t> y, Ptr<uint8_t> transposed, Ptr<float> transposedBlock, Ptr<float> partials, Input<DType::bf16> x, ScaleJob job, int64_t rows, int64_t cols) {
  beginKernel();
  FP8_SHARED(uint32_t, tile, kBothSide * kBothSide / 4);
  FP8_SHARED(float, parts, kBothWarps * kBothSide);
  const int lane = laneOf(), warp = warpOf(), across = lane % kAcross, down = int(threadIdx.x) / kAcross;
  const int64_t firstRow = int64_t(blockIdx.y) * kBothSide, firstColumn = int64_t(blockIdx.x) * kBothSide, column = firstColumn + across * kSquare;
  const float scale = chooseScale(job);
  Seen seen;
  float sum[kSquare] = {};
#pragma unroll
  for (int r = down; r < kBothSide; r += kDown) {
    if (firstRow + r >= rows || column >= cols) continue;
    const int64_t at = (firstRow + r) * cols + column;
    float v[kSquare], t[kSquare];
    unpack(x.template fetch<kSquare>(at, kSquare), v);
#pragma unroll
    for (int k = 0; k < kSquare; k++) {
      t[k] = math::mul(v[k], scale);
      sum[k] = math::add(sum[k], v[k]);
    }
    seen.add(v, t, scale, job.max);
    const Packed<Y, kSquare> packed = pack<Y>(t);
    storeWords(y, at, packed.w);
    storeShared(tile, tileWord(r, across * 4), packed.w);
  }
  if (partials) {
#pragma unroll
    for (int k = 0; k < kSquare; k++) {
      for (int d = kAcross; d < kWarp; d *= 2) sum[k] = math::add(sum[k], __shfl_xor_sync(kAllLanes, sum[k], d));
      if (lane < kAcross) parts[warp * kBothSide + across * kSquare + k] = sum[k];
    }
  }
  __syncthreads();
  // 16 rows of four columns: the lanes of a warp have all 128 rows of their columns between them, whole lines of the transpose.
  const int group = lane % (kBothSide / kSquare), quad = warp * (kWarp / (kBothSide / kSquare)) + lane / (kBothSide / kSquare);
  const int64_t row = firstRow + group * kSquare, four = firstColumn + quad * 4;
  if (row < rows && four < cols) {
    uint32_t out[4][4];  // [column][four rows]
#pragma unroll
    for (int p = 0; p < 4; p++) {
      uint32_t w[4];
#pragma unroll
      for (int k = 0; k < 4; k++) w[k] = tile[tileWord(group * kSquare + 4 * p + k, quad)];
      transpose4(w);
#pragma unroll
      for (int k = 0; k < 4; k++) out[k][p] = w[k];
    }
#pragma unroll
    for (int k = 0; k < 4; k++) storeWords(transposed, (four + k) * rows + row, out[k]);
  }
  if (partials && int(threadIdx.x) < kBothSide && firstColumn + threadIdx.x < cols) {
    float total = 0.0f;
    for (int w = 0; w < kBothWarps; w++) total = math::add(total, parts[w * kBothSide + int(threadIdx.x)]);
    partials[int64_t(blockIdx.y) * cols + firstColumn + threadIdx.x] = total;
  }
  report(job, seen);
  if (!lastBlock(job.words + kTicket) || threadIdx.x > 0) return;
  finish(job, scale);
  for (int i = 0; i < kScaleBlock; i++) transposedBlock[i] = job.block[i];
}

/// @returns false for others than bf16 and where rows, columns or addresses are no multiples of 16: nothing was queued then
inline bool castBothWays(const Tensor& y, const Tensor& transposed, const Tensor& sums, const Tensor& x, const ScaleJob& job, int64_t rows, int64_t cols) {
  if (x.dtype != DType::bf16 || rows % kSquare || cols % kSquare || rows == 0 || cols == 0 || !isAligned(y) || !isAligned(transposed) || !isAligned(x)) return false;
  const dim3 grid(unsigned((cols + kBothSide - 1) / kBothSide), unsigned((rows + kBothSide - 1) / kBothSide));
  const Scratch partials(sums ? size_t(grid.y) * size_t(cols) * sizeof(float) : 0);
  const Ptr<float> none{};
  withFp8(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launchMeasure("quantize_rows", Plain<DType::bf16>(x), job, rows * cols);
    launch("quantize_rows", castBothWaysKernel<Y>, grid, dim3(kBothThreads), ptr<uint8_t>(y, "y"), ptr<uint8_t>(transposed, "transposed"),
           scalePtr(transposed, "transposed's scale block"), sums ? partials.as<float>("partial column sums") : none, input<DType::bf16>(x, "x"), job, rows, cols);
  });
  if (sums) addTotals<1>("column_sums", ptr<float>(sums, "sums"), none, partials.as<float>("partial column sums"), cols, int64_t(grid.y));
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
