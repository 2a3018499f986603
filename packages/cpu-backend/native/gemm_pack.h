// Packing for the FMA variants: decodes W rows or columns of an operand at a time into panels of floats (layout: gemm_kernels.h).
// The dot variant has gemm_pack_dot.h.
//
// K-contiguous sources need a transpose. It is done on dwords whatever the dtype (one float, two bf16, four fp8 codes):
// W rows x W dwords are transposed in registers by shuffles, and only then expanded, lane by lane, to floats. So FP8 pays
// a quarter of the shuffles that floats pay, and every load takes a whole cache line of its row, which keeps row strides
// of a power of two (W lines in the same L1 set) from thrashing.
// MN-contiguous sources are decoded as they lie, a cache line of columns for kBlock rows of k, then the next line: rows
// are often a multiple of 2 KB apart, where the lines of 32 rows overflow their L1 set and must not be visited twice.
// Ragged ends are copied to a zeroed corner on the stack first: one code path, and padding is zero.
#pragma once
#include "gemm_simd.h"

namespace fp8lm {

template <class S, int P> struct PanelWriter {
  static constexpr int W = S::width;
  static constexpr bool halves = P * 2 == W;  // a group of W lanes fills two panels
  static_assert(halves || P % W == 0, "panel width must be half a vector or whole vectors");
  uint32_t* low;
  uint32_t* high;

  PanelWriter() = default;
  /// For group `g` of W lanes; panels are `dwords` long in k.
  PanelWriter(uint32_t* panels, int64_t g, int64_t dwords, int64_t lanes) {
    if constexpr (halves) {
      low = panels + 2 * g * P * dwords;
      high = lanes > P ? low + P * dwords : low;  // no second panel: the empty half is written first, then overwritten
    } else {
      constexpr int groups = P / W;
      low = high = panels + (g / groups) * P * dwords + (g % groups) * W;
    }
  }

  FP8_INLINE void write(int64_t dword, typename S::F v) const {
    if constexpr (halves) S::storeHalves(low + dword * P, high + dword * P, v);
    else S::store(low + dword * P, v);
  }

  /// `count` <= N steps of k, of a float each.
  template <int N> FP8_INLINE void writeSteps(int64_t k, int64_t count, const typename S::F* v) const {
    if (count >= N) {
      FP8_UNROLL for (int i = 0; i < N; ++i) write(k + i, v[i]);
    } else {
      for (int i = 0; i < count; ++i) write(k + i, v[i]);
    }
  }
};

/// Groups of W lanes to visit, the empty ones that pad the last panel included.
template <class S, int P> constexpr int64_t groupsOf(int64_t mn) {
  return P * 2 == S::width ? (mn + S::width - 1) / S::width : (mn + P - 1) / P * (P / S::width);
}

/// W x (W dwords) of a K-contiguous source into k .. k + count.
template <class S, Kind kind, int P>
FP8_INLINE void packSquare(const char* source, int64_t rowBytes, const PanelWriter<S, P>& writer, int64_t k, int64_t count) {
  using F = typename S::F;
  constexpr int W = S::width, per = perDword(kind);
  F rows[W];
  FP8_UNROLL for (int i = 0; i < W; ++i) {
    if constexpr (per == 1) rows[i] = loadElements<S, kind>(source + i * rowBytes);
    else rows[i] = S::template get<F>(source + i * rowBytes);
  }
  S::transpose(rows);
  if constexpr (per == 1) writer.template writeSteps<W>(k, count, rows);
  else {
    FP8_UNROLL for (int i = 0; i < W; ++i) {
      F steps[per];
      expand<S, kind>(rows[i], steps);
      if (i * per < count) writer.template writeSteps<per>(k + i * per, count - i * per, steps);
    }
  }
}

template <class S, Kind kind, int P>
void packAlongK(const void* source, int64_t ld, int64_t mn, int64_t k, uint32_t* panels) {
  constexpr int W = S::width, steps = W * perDword(kind);
  constexpr int64_t bytes = bytesOf(kind), square = steps * bytes;
  const char* base = static_cast<const char*>(source);
  const int64_t rowBytes = ld * bytes;
  alignas(64) char corner[W * square];
  for (int64_t g = 0, groups = groupsOf<S, P>(mn); g < groups; ++g) {
    const int64_t lanes = mn - g * W;
    const PanelWriter<S, P> writer(panels, g, k, lanes);
    const char* rows = base + g * W * rowBytes;
    int64_t k0 = 0;
    if (lanes >= W)
      for (; k0 + steps <= k; k0 += steps) packSquare<S, kind, P>(rows + k0 * bytes, rowBytes, writer, k0, steps);
    for (; k0 < k; k0 += steps) {
      const int64_t count = k - k0 < steps ? k - k0 : steps;
      memset(corner, 0, sizeof corner);
      for (int64_t i = 0; i < W && i < lanes; ++i) memcpy(corner + i * square, rows + i * rowBytes + k0 * bytes, size_t(count * bytes));
      packSquare<S, kind, P>(corner, square, writer, k0, count);
    }
  }
}

template <class S, Kind kind, int P>
void packAlongMn(const void* source, int64_t ld, int64_t mn, int64_t k, uint32_t* panels) {
  using F = typename S::F;
  constexpr int W = S::width, per = perLine(kind);
  constexpr int64_t bytes = bytesOf(kind), kBlock = 32;
  const char* base = static_cast<const char*>(source);
  const int64_t rowBytes = ld * bytes;
  alignas(64) char corner[W * bytes];
  for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
    const int64_t k1 = k0 + kBlock < k ? k0 + kBlock : k;
    for (int64_t g = 0, groups = groupsOf<S, P>(mn); g < groups; g += per) {
      const int64_t lanes = mn - g * W, here = groups - g < per ? groups - g : per;
      const char* column = base + g * W * bytes;
      PanelWriter<S, P> writers[per];
      FP8_UNROLL for (int i = 0; i < per; ++i) writers[i] = PanelWriter<S, P>(panels, g + (i < here ? i : 0), k, lanes - i * W);
      const auto load = [&](int64_t kk, F* out) __attribute__((always_inline)) {
        const char* p = column + kk * rowBytes;
        if (lanes >= per * W) return loadLine<S, kind>(p, out);
        FP8_UNROLL for (int i = 0; i < per; ++i) {
          const int64_t left = lanes - i * W;
          if (left < W) memset(corner, 0, sizeof corner);
          if (left > 0 && left < W) memcpy(corner, p + i * W * bytes, size_t(left * bytes));
          out[i] = loadElements<S, kind>(left < W ? corner : p + i * W * bytes);
        }
      };
      for (int64_t kk = k0; kk < k1; ++kk) {
        F step[per];
        load(kk, step);
        FP8_UNROLL for (int i = 0; i < per; ++i)
          if (i < here) writers[i].write(kk, step[i]);
      }
    }
  }
}

}  // namespace fp8lm
