// Reductions over ranges, on the instruction set this file is compiled for.
#pragma once
#include "comm.h"
#include "vec.h"

namespace fp8lm::FP8_VEC {

enum class CommOp { sum, max, min };

/// NaN wins, so that a broken value on one rank is seen on all.
template <CommOp op> FP8_INLINE F32 combine(F32 x, F32 y) {
  if constexpr (op == CommOp::sum) return x + y;
  const I32 nan = (bitsOf(x) & I32(0x7fffffff)) > I32(0x7f800000);
  return pick(nan, x, pick(op == CommOp::max ? x > y : y > x, x, y));
}

template <CommOp op> FP8_INLINE I32 combine(I32 x, I32 y) {
  return op == CommOp::sum ? x + y : op == CommOp::max ? max(x, y) : min(x, y);
}

template <class T> FP8_INLINE F32 roundTrip(F32 x) {
  if constexpr (isSame<T, float>) return x;
  else {
    T stored[kLanes];
    store(stored, x);
    return load(stored);
  }
}

template <CommOp op, class T>
void reduceRange(void* dst, const void* const* parts, int count, float scale, bool steps, int64_t begin, int64_t end) {
  T* out = static_cast<T*>(dst);
  const F32 factor(scale);
  forVectors(begin, end, [&](int64_t i, int64_t n) FP8_LAMBDA {
    F32 sum = loadAt(static_cast<const T*>(parts[0]), i, n);
    for (int k = 1; k < count; k++) {
      sum = combine<op>(sum, loadAt(static_cast<const T*>(parts[k]), i, n));
      if (steps) sum = roundTrip<T>(sum);
    }
    storeAt(out, i, sum * factor, n);
  });
}

template <CommOp op> void reduceIntegers(void* dst, const void* const* parts, int count, float, bool, int64_t begin, int64_t end) {
  int32_t* out = static_cast<int32_t*>(dst);
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    I32 sum = load(static_cast<const int32_t*>(parts[0]) + i);
    for (int k = 1; k < count; k++) sum = combine<op>(sum, load(static_cast<const int32_t*>(parts[k]) + i));
    store(out + i, sum);
  }
  for (; i < end; i++) {
    int32_t sum;
    memcpy(&sum, static_cast<const int32_t*>(parts[0]) + i, 4);
    for (int k = 1; k < count; k++) {
      int32_t y;
      memcpy(&y, static_cast<const int32_t*>(parts[k]) + i, 4);
      if (op == CommOp::sum) sum = int32_t(uint32_t(sum) + uint32_t(y));
      else sum = (op == CommOp::max ? sum > y : sum < y) ? sum : y;
    }
    memcpy(out + i, &sum, 4);
  }
}

#define FP8_COMM_ROW(op) \
  {reduceRange<op, float>, reduceRange<op, BF16>, reduceRange<op, F16>, reduceRange<op, E4M3>, reduceRange<op, E5M2>, reduceIntegers<op>}

extern const CommTable comm = {{FP8_COMM_ROW(CommOp::sum), FP8_COMM_ROW(CommOp::max), FP8_COMM_ROW(CommOp::min)}};

}  // namespace fp8lm::FP8_VEC
