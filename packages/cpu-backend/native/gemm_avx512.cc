// The AVX-512 FMA variant: float panels.
#include "gemm_simd_avx512.h"
#include "gemm_table.h"
#include "peak.h"
#include "peak_loop.h"

namespace fp8lm {

const GemmKernels& gemmAvx512() {
  static const GemmKernels table = makeTable<Avx512, 8, 3>("avx512");
  return table;
}

double peakAvx512(long rounds) { return peakLoop<Avx512, 12>(rounds); }

}  // namespace fp8lm
