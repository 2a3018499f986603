// The passes around a product of cuBLASLt's: what it needs made ready, and what it leaves to be finished.
#pragma once
#include "map.h"
#include "transpose.h"

namespace fp8lm {

/// Where the kernel below puts what the library reads on the device.
enum Factor : int { kAlpha = 0, kBeta = 1, kFactors = 2 };

/// What a product needs on the device beside its operands: alpha times the scales that the library does not take by itself,
/// beta, and the bias in bf16.
static __global__ void __launch_bounds__(kThreads) prepareKernel(Ptr<float> out, float alpha, float beta, Ptr<const float> a, Ptr<const float> b, Ptr<const float> c, Ptr<uint16_t> rounded, Ptr<const float> bias, int64_t n) {
  beginKernel();
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rounded && i < n) rounded[i] = encodeBF16(bias[i]);
  if (i > 0) return;
  float f = alpha;
  if (a) f = math::mul(f, a[kScaleInv]);
  if (b) f = math::mul(f, b[kScaleInv]);
  if (c) f = math::mul(f, c[kScale]);
  out[kAlpha] = f;
  out[kBeta] = beta;
}

constexpr int kSide = 64, kTransposeThreads = 256;

/// y [outRows, outCols] = x, or its transpose, with zeros around it. Tiles of 64 x 64 bytes go through shared memory.
template <bool transposed>
__global__ void __launch_bounds__(kTransposeThreads, 4) copyPaddedKernel(Ptr<uint8_t> y, Ptr<const uint8_t> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
  beginKernel();
  FP8_SHARED(uint8_t, tile, kSide * (kSide + 4));
  const int64_t outRow = int64_t(blockIdx.y) * kSide, outCol = int64_t(blockIdx.x) * kSide;
  const int64_t inRow = transposed ? outCol : outRow, inCol = transposed ? outRow : outCol;
  const int lane = int(threadIdx.x) % kSide, first = int(threadIdx.x) / kSide;
  for (int r = first; r < kSide; r += kTransposeThreads / kSide)
    tile[r * (kSide + 4) + lane] = inRow + r < rows && inCol + lane < cols ? uint8_t(x[(inRow + r) * cols + inCol + lane]) : uint8_t(0);
  __syncthreads();
  for (int r = first; r < kSide; r += kTransposeThreads / kSide) {
    if (outRow + r >= outRows || outCol + lane >= outCols) continue;
    y[(outRow + r) * outCols + outCol + lane] = uint8_t(transposed ? tile[lane * (kSide + 4) + r] : tile[r * (kSide + 4) + lane]);
  }
}

/// The stored values as bf16, without the scale.
template <DType X> __global__ void __launch_bounds__(kThreads, 3) toBF16Kernel(Output<DType::bf16> y, Input<X> x, int64_t n) {
  beginKernel();
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * kGroup;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kGroup; i < n; i += stride) {
    const int count = n - i < kGroup ? int(n - i) : kGroup;
    float v[kGroup];
    x.load(i, count, 1.0f, v);
    y.store(i, count, pack<DType::bf16>(v));
  }
}

/// y [outRows, outCols] = x [rows, cols] and zeros around it, in elements of T; outCols is a multiple of 16 bytes.
template <class T> __global__ void __launch_bounds__(kThreads) padRowsKernel(Ptr<T> y, Ptr<const T> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
  beginKernel();
  constexpr int per = 16 / sizeof(T);
  const int64_t column = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * per;
  if (column >= outCols) return;
  for (int64_t row = blockIdx.y; row < outRows; row += gridDim.y) {
    Vec<T> v;
#pragma unroll
    for (int q = 0; q < per; q++) v.v[q] = row < rows && column + q < cols ? T(x[row * cols + column + q]) : T(0);
    storeVec(y, row * outCols + column, v);
  }
}

/// c (+)= the result [m, n] in rows of `ld`, plus bias, in c's dtype.
template <DType C, DType X>
__global__ void __launch_bounds__(kThreads) finishProductKernel(Ptr<Code<C>> c, Ptr<const Code<X>> x, Ptr<const float> bias, Ptr<const float> block, bool accumulate, int64_t m, int64_t n, int64_t ld) {
  beginKernel();
  const float scale = block ? float(block[kScale]) : 1.0f;
  // Columns in 32 bits, and what a row adds to the pointers once a row: half the registers of 64-bit indices.
  const uint32_t width = uint32_t(n), stride = gridDim.x * blockDim.x;
  for (int64_t row = blockIdx.y; row < m; row += gridDim.y) {
    const Ptr<Code<C>> to = c + row * n;
    const Ptr<const Code<X>> from = x + row * ld;
    for (uint32_t column = blockIdx.x * blockDim.x + threadIdx.x; column < width; column += stride) {
      float v = Form<X>::decode(from[column]);
      if (bias) v = math::add(v, bias[column]);
      if constexpr (C == DType::f16) v = math::mul(v, scale);
      if (accumulate) v = math::add(v, Form<C>::decode(to[column]));
      if constexpr (C == DType::f16) to[column] = encodeF16(v);
      else to[column] = Form<C>::encode(v);
    }
  }
}

}  // namespace fp8lm
