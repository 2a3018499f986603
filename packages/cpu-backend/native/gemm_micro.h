// The micro-kernel: one MR x (NV * W) tile of C stays in registers while k runs over an A panel and a B panel.
//
// Each step loads NV vectors of B, broadcasts MR values of A from memory and does MR * NV multiply-adds, so that the
// FMA units are the limit: AVX-512 8 x 48 is 24 accumulators, 3 vectors of B, 1 broadcast (11 loads for 24 FMAs, where
// two loads an FMA pair would be allowed); AVX2 4 x 24 uses 12 + 3 + 1 of 16 registers the same way.
// Unrolled by 4: the loop's scalar adds compete with FMAs for ports (measured 0.955 -> 0.97 of the FMA peak). Each round
// of 4 prefetches one line of what comes next (Ahead); spread out like this it costs nothing.
// What happens to the sums at the end is a Sink: ToTile stores them, ToC is the epilogue, straight from the registers (through a
// tile in memory, long since driven out of L1, it took up to 9 % of a product with K = 384).
#pragma once
#include "gemm_epilogue.h"
#include "gemm_simd.h"

namespace fp8lm {

/// Raw sums to memory: between blocks of K, and for tiles that reach beyond C.
template <class S, int MR, int NV> struct ToTile {
  float* out;
  static constexpr int kRows = 0;  // to fetch
  FP8_INLINE void fetch() {}
  FP8_INLINE void take(const typename S::F (&acc)[MR][NV]) const {
    FP8_UNROLL for (int i = 0; i < MR; ++i) {
      FP8_UNROLL for (int j = 0; j < NV; ++j) S::put(out + (i * NV + j) * S::width, acc[i][j]);
    }
  }
};

/// The epilogue of a whole tile of C. Its rows are fetched into L1 while the last steps run.
template <class S, int MR, int NV, DType type> struct ToC {
  using T = typename Writer<S, type>::T;
  const Epilogue& e;
  int64_t col;
  T* c;
  uint32_t* amax;
  const char* line;
  static constexpr int kRows = MR;

  FP8_INLINE ToC(const Epilogue& epilogue, int64_t row, int64_t column, uint32_t* most)
      : e(epilogue), col(column), c(static_cast<T*>(e.c) + row * e.ldc + col), amax(most), line(reinterpret_cast<const char*>(c)) {}
  FP8_INLINE void fetch() {
    FP8_UNROLL for (size_t at = 0; at < NV * S::width * sizeof(T); at += 64) __builtin_prefetch(line + at, 1);
    line += e.ldc * int64_t(sizeof(T));
  }
  FP8_INLINE void take(const typename S::F (&acc)[MR][NV]) const {
    Writer<S, type> writer(e, amax);
    FP8_UNROLL for (int i = 0; i < MR; ++i) {
      FP8_UNROLL for (int j = 0; j < NV; ++j)
        writer.write(acc[i][j], e.bias ? e.bias + col + j * S::width : nullptr, c + i * e.ldc + j * S::width);
    }
    if (amax) writer.report(amax);
  }
};

template <class S, int MR, int NV, class Sink>
FP8_INLINE void runMicro(int64_t dwords, const uint32_t* a, const uint32_t* b, const float* in, const Ahead& ahead, Sink sink) {
  using F = typename S::F;
  constexpr int W = S::width, NR = NV * W;
  F acc[MR][NV];
  FP8_UNROLL for (int i = 0; i < MR; ++i) {
    FP8_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = S::zero();
  }
  if (in) {
    FP8_UNROLL for (int i = 0; i < MR * NR; i += 16) __builtin_prefetch(in + i);
  }
  int64_t left = dwords, line = 1;
  const char* next = ahead.base;
  const int64_t nextRow = ahead.row, nextGroup = ahead.group - 16 * ahead.row;
  const auto step = [&](const uint32_t* pa, const uint32_t* pb) __attribute__((always_inline)) {
    F bv[NV];
    FP8_UNROLL for (int j = 0; j < NV; ++j) bv[j] = S::template get<F>(pb + j * W);
    FP8_UNROLL for (int i = 0; i < MR; ++i) {
      const F av = S::broadcast(pa + i);
      FP8_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = S::mac(acc[i][j], av, bv[j]);
    }
  };
  const auto four = [&]() __attribute__((always_inline)) {
    __builtin_prefetch(next, 0, 2);
    next += nextRow + (line % 16 == 0 ? nextGroup : 0);
    FP8_UNROLL for (int u = 0; u < 4; ++u) step(a + u * MR, b + u * NR);
    left -= 4, a += 4 * MR, b += 4 * NR, ++line;
  };
  while (left >= 4 * (Sink::kRows + 1)) four();
  if constexpr (Sink::kRows > 0)
    while (left >= 4) sink.fetch(), four();
  for (; left > 0; --left, a += MR, b += NR) step(a, b);
  if (in) {
    FP8_UNROLL for (int i = 0; i < MR; ++i) {
      FP8_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = S::add(acc[i][j], S::template get<F>(in + i * NR + j * W));
    }
  }
  sink.take(acc);
}

template <class S, int MR, int NV>
void micro(int64_t dwords, const uint32_t* a, const uint32_t* b, const float* in, float* out, const Ahead& ahead) {
  runMicro<S, MR, NV>(dwords, a, b, in, ahead, ToTile<S, MR, NV>{out});
}

template <class S, int MR, int NV, DType type>
void microToC(int64_t dwords, const uint32_t* a, const uint32_t* b, const float* in, const Epilogue& e, int64_t row, int64_t col,
              uint32_t* amax, const Ahead& ahead) {
  runMicro<S, MR, NV>(dwords, a, b, in, ahead, ToC<S, MR, NV, type>(e, row, col, amax));
}

}  // namespace fp8lm
