// The variant for any machine: 4-lane vector extensions, multiply and add rounded separately.
#include "gemm_table.h"
#include "peak.h"
#include "peak_loop.h"

namespace fp8lm {
namespace {

struct Generic : Vec<4> {
  static FP8_INLINE void transpose(F* r) {
    const F a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    const F c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
  }
};

}  // namespace

const GemmKernels& gemmGeneric() {
  static const GemmKernels table = makeTable<Generic, 4, 2>("generic");
  return table;
}

double peakGeneric(long rounds) { return peakLoop<Generic, 8>(rounds); }

}  // namespace fp8lm
