// Fills a GemmKernels table from a vector class S (gemm_simd.h) and a tile shape. Included once by each gemm_<isa>.cc.
#pragma once
#include "gemm_epilogue.h"
#include "gemm_micro.h"
#include "gemm_pack.h"
#include "gemm_skinny.h"

namespace fp8lm {

template <class S, int MR, int NR, Kind kind> void fillKind(GemmKernels& t) {
  if constexpr (S::kUnit == 1) {  // the dot variant packs in its own way (gemm_pack_dot.h)
    t.packA[kind][0] = packAlongMn<S, kind, MR>;
    t.packA[kind][1] = packAlongK<S, kind, MR>;
    t.packB[kind][0] = packAlongMn<S, kind, NR>;
    t.packB[kind][1] = packAlongK<S, kind, NR>;
  }
  t.decode[kind] = decodeRow<S, kind>;
  t.skinny[kind][0][0] = skinnyAlongN<S, kind, 1>;
  t.skinny[kind][0][1] = skinnyAlongN<S, kind, 4>;
  t.skinny[kind][1][0] = skinnyAlongK<S, kind, 1>;
  t.skinny[kind][1][1] = skinnyAlongK<S, kind, 4>;
}

template <class S, int MR, int NV> GemmKernels makeTable(const char* name) {
  constexpr int NR = NV * S::width;
  GemmKernels t{};
  t.name = name;
  t.packing = {14, 26, 10};  // AVX-512 on Xeon
  t.mr = MR;
  t.nr = NR;
  t.kUnit = S::kUnit;
  t.micro = micro<S, MR, NV>;
  t.microToC[kCF32] = microToC<S, MR, NV, DType::f32>;
  t.microToC[kCBf16] = microToC<S, MR, NV, DType::bf16>;
  t.microToC[kCF16] = microToC<S, MR, NV, DType::f16>;
  t.epilogue = epilogue<S>;
  fillKind<S, MR, NR, kF32>(t);
  fillKind<S, MR, NR, kF32AsBf16>(t);
  fillKind<S, MR, NR, kF16>(t);
  fillKind<S, MR, NR, kF16AsBf16>(t);
  fillKind<S, MR, NR, kBf16>(t);
  fillKind<S, MR, NR, kE4m3>(t);
  fillKind<S, MR, NR, kE5m2>(t);
  return t;
}

}  // namespace fp8lm
