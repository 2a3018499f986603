// Matrix products of this backend: cuBLASLt where it takes the operands (gemm_lt.cu), our own kernels for the rest (gemm.cu).
#pragma once
#include "context.h"
#include "formats.h"

namespace fp8lm {

/// c (+)= alpha op(a) op(b) + bias, all row-major, as in kernels.def.
struct Gemm {
  Tensor c, a, b, bias;
  int64_t m, n, k;
  bool transA, transB, accumulate, f32;
  float alpha;
};

/// Queues the product on cuBLASLt. @returns false if the library is not there or refuses it; nothing was queued then
bool gemmByLibrary(const Gemm& g);

/// Counts of products by who computed them, for tests and `describe`.
struct GemmCounts {
  int64_t fp8 = 0, library = 0, own = 0;
};
GemmCounts& gemmCounts();
/// True: own kernels for everything.
bool& gemmOwnOnly();

}  // namespace fp8lm
