// What both directions of the embedding check.
#pragma once
#include <stdexcept>
#include <string>

#include "context.h"
#include "formats.h"

namespace fp8lm {

inline void checkMultiple(const char* name, int64_t value, const char* of, int64_t divisor) {
  if (divisor > 0 && value % divisor == 0) return;
  throw std::runtime_error(std::string(name) + " is " + std::to_string(value) + "; expected a multiple of " + of + " (" + std::to_string(divisor) + ")");
}

inline void checkPositions(int64_t position, int64_t count, int64_t end) {
  if (position + count <= end) return;
  throw std::runtime_error("positions [" + std::to_string(position) + ", " + std::to_string(position + count) + ") end beyond " + std::to_string(end));
}

/// Threads of a block that has `columns` units of a row to do.
inline unsigned threadsFor(int64_t columns) { return columns >= kThreads ? unsigned(kThreads) : unsigned((columns + kWarp - 1) / kWarp * kWarp); }

/// V neighbours of a row, decoded; 16 bytes at once where V says so.
template <DType D, int V> __device__ __forceinline__ void loadColumns(const Ptr<const Code<D>> x, int64_t i, float v[V]) {
  if constexpr (V == 1) {
    v[0] = Form<D>::decode(x[i]);
  } else {
    constexpr int per = 16 / sizeof(Code<D>);
#pragma unroll
    for (int k = 0; k < V; k += per) {
      const Vec<Code<D>> in = loadVec(x, i + k);
#pragma unroll
      for (int q = 0; q < per; q++) v[k + q] = Form<D>::decode(in.v[q]);
    }
  }
}

/// y[i + k] += v[k].
template <int V> __device__ __forceinline__ void addColumns(const Ptr<float> y, int64_t i, const float v[V]) {
  if constexpr (V == 1) {
    y[i] += v[0];
  } else {
#pragma unroll
    for (int k = 0; k < V; k += 4) {
      Vec<float> old = loadVec(y, i + k);
#pragma unroll
      for (int q = 0; q < 4; q++) old.v[q] = math::add(old.v[q], v[k + q]);
      storeVec(y, i + k, old);
    }
  }
}

template <int V> __device__ __forceinline__ void storeColumns(const Ptr<float> y, int64_t i, const float v[V]) {
  if constexpr (V == 1) {
    y[i] = v[0];
  } else {
#pragma unroll
    for (int k = 0; k < V; k += 4) {
      Vec<float> out;
#pragma unroll
      for (int q = 0; q < 4; q++) out.v[q] = v[k + q];
      storeVec(y, i + k, out);
    }
  }
}

/// Columns that a thread of the kernels above takes at once: 16 bytes of dy, if every row begins at a multiple of them.
template <DType D, class F> inline void withColumns(bool aligned, int64_t dim, F&& f) {
  constexpr int V = 16 / sizeof(Code<D>);
  if (aligned && dim % V == 0) f(std::integral_constant<int, V>{});
  else f(std::integral_constant<int, 1>{});
}

}  // namespace fp8lm
