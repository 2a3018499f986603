// What AVX512_BF16 gives: the dot variant, with panels of bf16 pairs multiplied and summed by vdpbf16ps, and for the FMA
// variant an epilogue that rounds to bf16 in one instruction instead of nine (2 % of a product with K = 768). Both flush
// subnormals (below 1.2e-38) to zero.
#include "gemm_pack_dot.h"
#include "gemm_simd_avx512.h"
#include "gemm_table.h"
#include "peak.h"
#include "peak_loop.h"

namespace fp8lm {
namespace {

struct Avx512Dot : Avx512 {
  static constexpr int kUnit = 2;
  static FP8_INLINE H toBf16(F v) { return (H)_mm512_cvtneps_pbh(v); }
  static FP8_INLINE F roundBf16(F v) { return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)), 16); }
  static FP8_INLINE F mac(F acc, F a, F b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
};

template <Kind kind, int MR, int NR> void fillPacking(GemmKernels& t) {
  t.packA[kind][0] = packDotAlongMn<Avx512Dot, kind, MR>;
  t.packA[kind][1] = packDotAlongK<Avx512Dot, kind, MR>;
  t.packB[kind][0] = packDotAlongMn<Avx512Dot, kind, NR>;
  t.packB[kind][1] = packDotAlongK<Avx512Dot, kind, NR>;
}

}  // namespace

const GemmKernels& gemmAvx512Bf16() {
  static const GemmKernels table = [] {
    GemmKernels t = gemmAvx512();
    t.name = "avx512+bf16";
    t.epilogue = epilogue<Avx512Dot>;
    return t;
  }();
  return table;
}

const GemmKernels& gemmAvx512Dot() {
  static const GemmKernels table = [] {
    GemmKernels t = makeTable<Avx512Dot, 8, 3>("avx512dot");
    t.packing = {32, 42, 7};  // Zen 4
    fillPacking<kF32AsBf16, 8, 48>(t);
    fillPacking<kF16AsBf16, 8, 48>(t);
    fillPacking<kBf16, 8, 48>(t);
    fillPacking<kE4m3, 8, 48>(t);
    fillPacking<kE5m2, 8, 48>(t);
    return t;
  }();
  return table;
}

double peakAvx512Dot(long rounds) { return peakLoop<Avx512Dot, 12>(rounds); }

}  // namespace fp8lm
