// Our own matrix products, for what cuBLASLt refuses or where it is not installed: any operand dtypes, any sizes, any
// transposes. Operands are rounded to bf16 on their way into shared memory and multiplied by the tensor cores (mma.sync);
// with compute_f32 they stay float32 and are multiplied by the ordinary units.
#include "gemm.h"

#include "../../fp8-kernels/native/kernels.gen.h"
#include "scaling.h"

namespace fp8lm {

namespace {

struct Epilogue {
  Ptr<float> f32;
  Ptr<uint16_t> half;  // bf16, or f16 at its present scale
  Ptr<const float> scaleA, scaleB, scaleC, bias;
  DType dtype;
  float alpha;
  bool accumulate;
  int64_t n;

  __device__ __forceinline__ float factor() const {
    const float a = scaleA ? float(scaleA[kScaleInv]) : 1.0f, b = scaleB ? float(scaleB[kScaleInv]) : 1.0f;
    return math::mul(math::mul(alpha, a), b);
  }
  __device__ __forceinline__ void store(int64_t row, int64_t column, float sum, float factor) const {
    const int64_t i = row * n + column;
    float v = math::mul(sum, factor);
    if (bias) v = math::add(v, bias[column]);
    if (dtype == DType::f32) {
      if (accumulate) v = math::add(v, f32[i]);
      f32[i] = v;
    } else if (dtype == DType::bf16) {
      if (accumulate) v = math::add(v, decodeBF16(half[i]));
      half[i] = encodeBF16(v);
    } else {
      const float scale = scaleC ? float(scaleC[kScale]) : 1.0f, inv = scaleC ? float(scaleC[kScaleInv]) : 1.0f;
      if (accumulate) v = math::add(v, math::mul(decodeF16(half[i]), inv));
      half[i] = encodeF16(math::mul(v, scale));
    }
  }
};

/// An operand as rows of k: row r of op(a), or column r of op(b).
struct Rows {
  AnyInput x;
  int64_t rows, k;
  bool alongRows;  // stored [k, rows] instead of [rows, k]
  __device__ __forceinline__ float at(int64_t r, int64_t p) const {
    return r < rows && p < k ? x.stored(alongRows ? p * rows + r : r * k + p) : 0.0f;
  }
};

constexpr int kTile = 64, kDepth = 32, kWords = kDepth / 2, kStride = kWords + 4;  // shared rows padded: no bank is hit twice
constexpr int kMmaThreads = 128, kSgemmThreads = 256, kSgemmDepth = 16;

__device__ __forceinline__ uint32_t packBF16(float low, float high) { return uint32_t(encodeBF16(low)) | uint32_t(encodeBF16(high)) << 16; }

/// Fills 64 rows of 32 values, as pairs; neighbouring threads read neighbouring addresses either way.
__device__ __forceinline__ void fillTile(const Shared<uint32_t> tile, const Rows& x, int64_t row, int64_t depth) {
  for (int i = int(threadIdx.x); i < kTile * kWords; i += kMmaThreads) {
    const int r = x.alongRows ? i % kTile : i / kWords, w = x.alongRows ? i / kTile : i % kWords;
    tile[r * kStride + w] = packBF16(x.at(row + r, depth + 2 * w), x.at(row + r, depth + 2 * w + 1));
  }
}

/// A block has a tile of 64 x 64, each of its four warps 32 x 32.
__global__ void __launch_bounds__(kMmaThreads, 4) mmaGemmKernel(Rows a, Rows b, Epilogue out, int64_t m) {
  beginKernel();
  FP8_SHARED(uint32_t, tileA, kTile * kStride);
  FP8_SHARED(uint32_t, tileB, kTile * kStride);
  const int64_t row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
  const int warpRow = warpOf() / 2 * 32, warpColumn = warpOf() % 2 * 32, group = laneOf() / 4, pair = laneOf() % 4;
  float acc[2][4][4] = {};
  for (int64_t depth = 0; depth < a.k; depth += kDepth) {
    __syncthreads();
    fillTile(tileA, a, row, depth);
    fillTile(tileB, b, column, depth);
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kDepth / 16; step++) {
      unsigned fa[2][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int at = (warpRow + 16 * i + group) * kStride + 8 * step + pair;
        fa[i][0] = tileA[at];
        fa[i][1] = tileA[at + 8 * kStride];
        fa[i][2] = tileA[at + 4];
        fa[i][3] = tileA[at + 8 * kStride + 4];
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int at = (warpColumn + 8 * j + group) * kStride + 8 * step + pair;
        fb[j][0] = tileB[at];
        fb[j][1] = tileB[at + 4];
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mmaBf16(acc[i][j], fa[i], fb[j]);
    }
  }
  const float factor = out.factor();
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int q = 0; q < 4; q++) {
        const int64_t r = row + warpRow + 16 * i + group + (q / 2) * 8, c = column + warpColumn + 8 * j + 2 * pair + q % 2;
        if (r < m && c < out.n) out.store(r, c, acc[i][j][q], factor);
      }
}

/// float32: a block has 64 x 64, a thread 4 x 4.
__global__ void __launch_bounds__(kSgemmThreads, 3) sgemmKernel(Rows a, Rows b, Epilogue out, int64_t m) {
  beginKernel();
  FP8_SHARED(float, tileA, kSgemmDepth * (kTile + 4));
  FP8_SHARED(float, tileB, kSgemmDepth * (kTile + 4));
  const int64_t row = int64_t(blockIdx.y) * kTile, column = int64_t(blockIdx.x) * kTile;
  const int r0 = int(threadIdx.x) / 16 * 4, c0 = int(threadIdx.x) % 16 * 4;
  float acc[4][4] = {};
  for (int64_t depth = 0; depth < a.k; depth += kSgemmDepth) {
    __syncthreads();
    for (int i = int(threadIdx.x); i < kTile * kSgemmDepth; i += kSgemmThreads) {
      const int ra = a.alongRows ? i % kTile : i / kSgemmDepth, pa = a.alongRows ? i / kTile : i % kSgemmDepth;
      tileA[pa * (kTile + 4) + ra] = a.at(row + ra, depth + pa);
      const int rb = b.alongRows ? i % kTile : i / kSgemmDepth, pb = b.alongRows ? i / kTile : i % kSgemmDepth;
      tileB[pb * (kTile + 4) + rb] = b.at(column + rb, depth + pb);
    }
    __syncthreads();
    for (int p = 0; p < kSgemmDepth; p++) {
      float left[4], right[4];
#pragma unroll
      for (int i = 0; i < 4; i++) left[i] = tileA[p * (kTile + 4) + r0 + i], right[i] = tileB[p * (kTile + 4) + c0 + i];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = math::mulAdd(left[i], right[j], acc[i][j]);
    }
  }
  const float factor = out.factor();
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (row + r0 + i < m && column + c0 + j < out.n) out.store(row + r0 + i, column + c0 + j, acc[i][j], factor);
}

void gemmByUs(const Gemm& g) {
  Epilogue out{};
  out.dtype = g.c.dtype;
  if (g.c.dtype == DType::f32) out.f32 = ptr<float>(g.c, "c");
  else out.half = ptr<uint16_t>(g.c, "c");
  out.scaleA = scalePtr(g.a, "a's scale block");
  out.scaleB = scalePtr(g.b, "b's scale block");
  out.scaleC = scalePtr(g.c, "c's scale block");
  out.bias = ptr<const float>(g.bias, "bias");
  out.alpha = g.alpha;
  out.accumulate = g.accumulate;
  out.n = g.n;
  const Rows a{AnyInput(g.a, "a"), g.m, g.k, g.transA}, b{AnyInput(g.b, "b"), g.n, g.k, !g.transB};
  const dim3 grid(unsigned((g.n + kTile - 1) / kTile), unsigned((g.m + kTile - 1) / kTile));
  if (g.f32) launch("gemm", sgemmKernel, grid, dim3(kSgemmThreads), a, b, out, g.m);
  else launch("gemm", mmaGemmKernel, grid, dim3(kMmaThreads), a, b, out, g.m);
}

}  // namespace

GemmCounts& gemmCounts() {
  static GemmCounts c;
  return c;
}

bool& gemmOwnOnly() {
  static bool own = false;
  return own;
}

void gemm(const Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, const Tensor& amax, int64_t m, int64_t n, int64_t k, int64_t trans_a, int64_t trans_b, int64_t accumulate, int64_t compute_f32, double alpha) {
  const Gemm g{c, a, b, bias, m, n, k, trans_a != 0, trans_b != 0, accumulate != 0, compute_f32 != 0, float(alpha)};
  if (m > 0 && n > 0 && (k == 0 || gemmOwnOnly() || !gemmByLibrary(g))) {
    gemmByUs(g);
    gemmCounts().own++;
  }
  if (amax) fp8lm::amax(amax, c, m * n);
}

}  // namespace fp8lm
