// Transposes of one-byte tensors. A thread has a 16 x 16 block: sixteen loads of 16 bytes, byte permutes in registers, sixteen
// stores of 16 bytes; no shared memory. A block of threads covers 256 rows x 128 columns, whole lines of both tensors.
#pragma once
#include "formats.h"

namespace fp8lm {

constexpr int kSquare = 16, kSquareThreads = 128;
constexpr int kSquaresAcross = 8, kSquaresDown = kSquareThreads / kSquaresAcross;

/// Four words with bytes a.0 a.1 .. -> the words of their first bytes, second bytes, ..
__device__ __forceinline__ void transpose4(uint32_t (&a)[4]) {
  const uint32_t low01 = bytePermute(a[0], a[1], 0x5140), low23 = bytePermute(a[2], a[3], 0x5140);
  const uint32_t high01 = bytePermute(a[0], a[1], 0x7362), high23 = bytePermute(a[2], a[3], 0x7362);
  a[0] = bytePermute(low01, low23, 0x5410);
  a[1] = bytePermute(low01, low23, 0x7632);
  a[2] = bytePermute(high01, high23, 0x5410);
  a[3] = bytePermute(high01, high23, 0x7632);
}

/// Rows of 16 bytes to y: row r of the square, as words, to column r of y's square at [column, row].
__device__ __forceinline__ void storeTransposed(Ptr<uint8_t> y, const uint32_t (&square)[kSquare][4], int64_t row, int64_t column, int64_t stride) {
#pragma unroll
  for (int q = 0; q < 4; q++) {
    uint32_t out[4][4];  // [part of the out row][which of the four out rows]
#pragma unroll
    for (int p = 0; p < 4; p++) {
      uint32_t four[4];
#pragma unroll
      for (int k = 0; k < 4; k++) four[k] = square[4 * p + k][q];
      transpose4(four);
#pragma unroll
      for (int k = 0; k < 4; k++) out[k][p] = four[k];
    }
#pragma unroll
    for (int k = 0; k < 4; k++) storeWords(y, (column + 4 * q + k) * stride + row, out[k]);
  }
}

/// y [outRows, outCols] = the transpose of x [rows, cols], zeros around it. cols, outRows and outCols are multiples of 16.
static __global__ void __launch_bounds__(kSquareThreads, 4) transposeKernel(Ptr<uint8_t> y, Ptr<const uint8_t> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
  beginKernel();
  const int across = int(threadIdx.x) % kSquaresAcross, down = int(threadIdx.x) / kSquaresAcross;
  const int64_t row = (int64_t(blockIdx.y) * kSquaresDown + down) * kSquare, column = (int64_t(blockIdx.x) * kSquaresAcross + across) * kSquare;
  if (row >= outCols || column >= outRows) return;
  uint32_t square[kSquare][4];
#pragma unroll
  for (int r = 0; r < kSquare; r++) {
    if (row + r < rows && column < cols) loadWords(x, (row + r) * cols + column, square[r]);
    else square[r][0] = square[r][1] = square[r][2] = square[r][3] = 0u;
  }
  storeTransposed(y, square, row, column, outCols);
}

inline void launchTranspose(const char* name, Ptr<uint8_t> y, Ptr<const uint8_t> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
  const dim3 grid(unsigned((outRows / kSquare + kSquaresAcross - 1) / kSquaresAcross), unsigned((outCols / kSquare + kSquaresDown - 1) / kSquaresDown));
  launch(name, transposeKernel, grid, dim3(kSquareThreads), y, x, rows, cols, outRows, outCols);
}

}  // namespace fp8lm
