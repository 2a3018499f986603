// The table through which the driver (gemm.cc) sees one ISA variant. Each gemm_<isa>.cc fills one from the templates in
// gemm_pack.h, gemm_micro.h, gemm_epilogue.h and gemm_skinny.h.
//
// A panel holds P rows of A (P = mr) or P columns of B (P = nr) for a range of k: P consecutive dwords for each k. In the
// FMA variants (kUnit 1) a dword is a float; in the dot variant (kUnit 2) it is the bf16 pair (k even low, k odd high).
#pragma once
#include <cstdint>

#include "gemm.h"

namespace fp8lm {

/// How stored operand values become panel values: the dtype, and for f32 and f16 whether they are rounded to bf16.
enum Kind { kF32, kF32AsBf16, kF16, kF16AsBf16, kBf16, kE4m3, kE5m2, kKinds };

constexpr int64_t bytesOf(Kind kind) { return kind <= kF32AsBf16 ? 4 : kind <= kBf16 ? 2 : 1; }

/// Packs `mn` rows (K-contiguous source, row stride ld) or columns (MN-contiguous source, one row of stride ld for each
/// k) by `k` into ceil(mn / P) panels of P * ceil(k / kUnit) dwords, padded with zeros.
using PackFn = void (*)(const void* source, int64_t ld, int64_t mn, int64_t k, uint32_t* panels);

struct Epilogue {
  void* c;
  DType cType;
  int64_t ldc;
  const float* bias;
  float alpha;
  bool accumulate;
};

/// One to four rows times B without packing: c[row][n] for n in [begin, end). `rows` are decoded rows of A, k floats each.
struct Skinny {
  const float* rows[4];
  const void* b;
  int64_t ld, k;
  float* out[4];  // raw sums, before the epilogue
};
using SkinnyFn = void (*)(const Skinny&, int64_t begin, int64_t end);

/// What a micro-kernel call prefetches into L2, a line for every four steps: 16 lines `row` bytes apart, then the next 16
/// `group` bytes on. Addresses need not be valid.
struct Ahead {
  const char* base;
  int64_t row, group;
};

/// Kinds of C, as microToC counts them.
enum { kCF32, kCBf16, kCF16, kCTypes };

/// Packing one element costs as much time as this many multiply-adds: of B into L2, of A into the buffer that all threads share,
/// beyond L2, and of A into one that is used up at once. Measured.
struct PackCost {
  double b, sharedA, ownA;
};

struct GemmKernels {
  const char* name;
  PackCost packing;
  int mr, nr, kUnit;
  PackFn packA[kKinds][2], packB[kKinds][2];  // [1]: the source is contiguous along K
  /// out = in + A panel * B panel over `dwords` steps; tiles are mr x nr floats; in may be null (zero) or equal to out.
  void (*micro)(int64_t dwords, const uint32_t* a, const uint32_t* b, const float* in, float* out,
                const Ahead& ahead);
  /// The same for a tile that lies within C, with the epilogue below.
  void (*microToC[kCTypes])(int64_t dwords, const uint32_t* a, const uint32_t* b, const float* in, const Epilogue&, int64_t row,
                            int64_t col, uint32_t* amax, const Ahead& ahead);
  /// Writes rows x cols of a tile (row stride `stride`) to C at (row, col); amax, unless null, gathers the bits of max |C|.
  void (*epilogue)(const Epilogue&, const float* tile, int64_t stride, int64_t row, int64_t col, int rows, int64_t cols,
                   uint32_t* amax);
  void (*decode[kKinds])(const void* source, int64_t stride, int64_t count, float* out);
  SkinnyFn skinny[kKinds][2][2];  // [B contiguous along K][0: one row, 1: four rows]
};

const GemmKernels& gemmGeneric();
#if defined(__x86_64__)
const GemmKernels& gemmAvx2();
const GemmKernels& gemmAvx512();
const GemmKernels& gemmAvx512Bf16();
const GemmKernels& gemmAvx512Dot();
#endif

/// gemm() with a given variant; for gemm() itself and for checks of every variant in one process.
void gemmWith(const GemmKernels&, const GemmArgs&);

}  // namespace fp8lm
