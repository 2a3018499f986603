// General matrix product C = alpha * scaleA * scaleB * A B + bias [+ C] over any mix of f32, bf16, f16, e4m3 and e5m2
// operands, accumulated in float32.
//
// How it runs (a BLIS-like scheme, see gemm.cc for the loops): operands are decoded while they are packed into panels,
// so the inner kernel knows one format and FP8 costs no more than BF16; a micro-kernel (gemm_micro.h) multiplies panels;
// an epilogue scales, adds the bias, converts and finds the largest magnitude while the tile is still in the L1 cache.
// Each element of C is computed by one thread, over K in an order that depends on K only: the bits do not depend on the
// number of threads. They do depend on the ISA variant, within the rounding of a float32 sum.
#pragma once
#include <cstdint>

#include "../../fp8-kernels/native/tensor.h"

namespace fp8lm {

struct GemmOperand {
  const void* data;
  DType dtype;            // f32, bf16, f16, e4m3 or e5m2
  int64_t ld;             // row stride, in elements, of the matrix as stored
  bool transposed;        // stored as the transpose of the logical matrix
  const float* scaleInv;  // value = stored * *scaleInv; null means 1
};

struct GemmArgs {
  int64_t m, n, k;    // any >= 0
  GemmOperand a;      // logical A [m, k]: stored [m, k], or [k, m] when transposed
  GemmOperand b;      // logical B [k, n]: stored [k, n], or [n, k] when transposed
  void* c;            // [m, n]
  DType cType;        // f32, bf16 or f16
  int64_t ldc;        // row stride of C in elements
  const float* bias;  // [n], or null
  float alpha;        // multiplies the product, not the bias
  bool accumulate;    // add to C (read in its dtype, added in float32, rounded once)
  bool computeF32;    // false: stored operand values are rounded to bf16 before they are multiplied
  float* amax;        // null, or receives max |C| as written, +inf if C has a NaN
};

/// Computes the product on the thread pool (threads.h). No allocation once a thread has seen a problem of the size.
/// Throws std::invalid_argument for dtypes it does not know, std::runtime_error when FP8_ISA or FP8_GEMM is invalid.
void gemm(const GemmArgs&);

}  // namespace fp8lm
