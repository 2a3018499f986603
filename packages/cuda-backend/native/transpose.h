// Transposes of one-byte tensors by tiles in shared memory: rows go in as they lie, and a thread then takes 16 rows of four columns out
// and turns them with byte permutes. The threads that share four columns write as many neighbouring pieces of 16 bytes of the result.
#pragma once
#include "formats.h"

namespace fp8lm {

constexpr int kSquare = 16;  // of what all sizes are multiples: bytes of one access

/// Four words with bytes a.0 a.1 .. -> the words of their first bytes, second bytes, ..
__device__ __forceinline__ void transpose4(uint32_t (&a)[4]) {
  const uint32_t low01 = bytePermute(a[0], a[1], 0x5140), low23 = bytePermute(a[2], a[3], 0x5140);
  const uint32_t high01 = bytePermute(a[0], a[1], 0x7362), high23 = bytePermute(a[2], a[3], 0x7362);
  a[0] = bytePermute(low01, low23, 0x5410);
  a[1] = bytePermute(low01, low23, 0x7632);
  a[2] = bytePermute(high01, high23, 0x5410);
  a[3] = bytePermute(high01, high23, 0x7632);
}

/// A tile of rows x columns codes, and the block of threads that transposes it.
template <int rows, int columns> struct Tile {
  static constexpr int kRows = rows, kColumns = columns;
  static constexpr int kGroups = rows / kSquare, kRowWords = columns / 4, kPad = kWarp / kGroups;
  static constexpr int kThreads = kGroups * kRowWords;               // each takes 16 rows of one word
  static constexpr int kWords = rows * kRowWords + kGroups * kPad;  // of shared memory

  /// Where word `word` of row `row` lies: a pad after each 16 rows, so that no two threads of a warp that read the same row of their
  /// sixteen meet in a bank.
  static __device__ __forceinline__ int at(int row, int word) { return row * kRowWords + row / kSquare * kPad + word; }

  /// Stores the transpose of the tile, which begins at [firstRow, firstColumn], up to endRow and endColumn; y's rows are `stride` long.
  /// All threads of the block call it.
  static __device__ __forceinline__ void storeTransposed(Ptr<uint8_t> y, const Shared<uint32_t>& tile, int64_t firstRow, int64_t firstColumn, int64_t endRow, int64_t endColumn, int64_t stride) {
    const int group = int(threadIdx.x) % kGroups, word = int(threadIdx.x) / kGroups, from = at(group * kSquare, word);
    const int64_t row = firstRow + group * kSquare, column = firstColumn + word * 4;
    if (row >= endRow || column >= endColumn) return;
    uint32_t out[4][4];  // [column][four rows]
#pragma unroll
    for (int p = 0; p < 4; p++) {
      uint32_t four[4];
#pragma unroll
      for (int k = 0; k < 4; k++) four[k] = tile[from + (4 * p + k) * kRowWords];
      transpose4(four);
#pragma unroll
      for (int k = 0; k < 4; k++) out[k][p] = four[k];
    }
#pragma unroll
    for (int k = 0; k < 4; k++) storeWords(y, (column + k) * stride + row, out[k]);
  }
};

using TransposeTile = Tile<64, 128>;

/// y [outRows, outCols] = the transpose of x [rows, cols], zeros around it. cols, outRows and outCols are multiples of 16.
static __global__ void __launch_bounds__(TransposeTile::kThreads, 8) transposeKernel(Ptr<uint8_t> y, Ptr<const uint8_t> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols, unsigned tilesAcross) {
  beginKernel();
  using T = TransposeTile;
  constexpr int lanes = T::kColumns / kSquare, step = T::kThreads / lanes, count = T::kRows / step;
  FP8_SHARED(uint32_t, tile, T::kWords);
  const int lane = int(threadIdx.x) % lanes, down = int(threadIdx.x) / lanes;
  const int64_t firstRow = int64_t(blockIdx.x / tilesAcross) * T::kRows, firstColumn = int64_t(blockIdx.x % tilesAcross) * T::kColumns, column = firstColumn + lane * kSquare;
  uint32_t w[count][4];
#pragma unroll
  for (int p = 0; p < count; p++) {
    const int64_t row = firstRow + down + p * step;
    if (row < rows && column < cols) loadWords(x, row * cols + column, w[p]);
    else w[p][0] = w[p][1] = w[p][2] = w[p][3] = 0u;
  }
#pragma unroll
  for (int p = 0; p < count; p++) storeShared(tile, T::at(down + p * step, lane * 4), w[p]);
  __syncthreads();
  T::storeTransposed(y, tile, firstRow, firstColumn, outCols, outRows, outCols);
}

inline void launchTranspose(const char* name, Ptr<uint8_t> y, Ptr<const uint8_t> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
  using T = TransposeTile;
  const unsigned across = unsigned((outRows + T::kColumns - 1) / T::kColumns), down = unsigned((outCols + T::kRows - 1) / T::kRows);
  launch(name, transposeKernel, dim3(across * down), dim3(T::kThreads), y, x, rows, cols, outRows, outCols, across);
}

}  // namespace fp8lm
