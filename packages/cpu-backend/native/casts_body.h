// Casts, amax, column sums over ranges, on the instruction set this file is compiled for.
#pragma once
#include "casts.h"
#include "sinks.h"

namespace fp8lm::FP8_VEC {

template <class Y, class X>
CastStats castRange(void* y, const void* x, float scaleInv, float scale, int64_t begin, int64_t end) {
  const X* in = static_cast<const X*>(x);
  Sink<Y> sink(y, scale);
  const F32 inv(scaleInv);
  const auto value = [&](int64_t i, int64_t count) FP8_LAMBDA {
    prefetch(in + i);
    const F32 v = loadAt(in, i, count);
    if constexpr (isScaled<X>) return v * inv;
    else return v;
  };
  if constexpr (recodes<Y, X>) {
    Recode<Y, X> recode(scaleInv, scale);
    int64_t i = begin;
    for (; recode.on && i + kGroup <= end; i += kGroup) {
      for (size_t q = 0; q < sizeof(X); q++) prefetch(in + i, int64_t(2048 + 64 * q));
      if (!sink.putStored(i, in + i, recode)) emit(sink, i, i + kGroup, 0, value);
    }
    emit(sink, i, end, 0, value);
    sink.largest.bits = max(sink.largest.bits, recode.magnitude(scaleInv));
  } else {
    emit(sink, begin, end, 0, value);
  }
  return sink.stats();
}

template <class X> float amaxRange(const void* x, int64_t begin, int64_t end) {
  const X* in = static_cast<const X*>(x);
  AmaxSink a, b, c, d;  // four chains hide the latency
  int64_t i = begin;
  for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
    for (size_t k = 0; k < sizeof(X); k++) prefetch(in + i, int64_t(4096 + 64 * k));
    a.put(load(in + i)), b.put(load(in + i + kLanes));
    c.put(load(in + i + 2 * kLanes)), d.put(load(in + i + 3 * kLanes));
  }
  forVectors(i, end, [&](int64_t j, int64_t count) FP8_LAMBDA { a.put(loadAt(in, j, count)); });
  a.bits = max(max(a.bits, b.bits), max(c.bits, d.bits));
  return a.amax();
}

/// Eight rows at a time, so that the running sums are touched once in eight.
template <class Y, class X>
CastStats castRowsRange(void* y, float* partial, const void* x, float scale, int64_t begin, int64_t end, int64_t dim) {
  const X* in = static_cast<const X*>(x);
  Sink<Y> sink(y, scale);
  Recode<Y, X> recode(1.0f, scale);
  const auto putGroup = [&](int64_t i, const Group& v) FP8_LAMBDA {
    if constexpr (recodes<Y, X>)
      if (recode.on && sink.putStored(i, in + i, recode)) return;
    sink.putGroup(i, v);
  };
  memset(partial, 0, size_t(dim) * sizeof(float));
  int64_t r = begin;
  const int64_t whole = dim / kGroup * kGroup;
  for (; r + 8 <= end; r += 8) {
    for (int64_t c = 0; c < whole; c += kGroup) {
      Group pair[4];
      for (int k = 0; k < 4; k++) {
        const int64_t even = (r + 2 * k) * dim + c;
        for (size_t q = 0; q < sizeof(X); q++) {  // the same columns of the next eight rows
          prefetch(in + even, int64_t(8 * sizeof(X)) * dim + int64_t(64 * q));
          prefetch(in + even + dim, int64_t(8 * sizeof(X)) * dim + int64_t(64 * q));
        }
        Group v, w;
        for (int q = 0; q < 4; q++) v.v[q] = load(in + even + q * kLanes), w.v[q] = load(in + even + dim + q * kLanes);
        putGroup(even, v);
        putGroup(even + dim, w);
        for (int q = 0; q < 4; q++) pair[k].v[q] = v.v[q] + w.v[q];
      }
      for (int q = 0; q < 4; q++) {
        float* const at = partial + c + q * kLanes;
        store(at, load(at) + ((pair[0].v[q] + pair[1].v[q]) + (pair[2].v[q] + pair[3].v[q])));
      }
    }
    forVectors(whole, dim, [&](int64_t c, int64_t count) FP8_LAMBDA {
      F32 sum[4];
      for (int k = 0; k < 4; k++) {
        const int64_t even = (r + 2 * k) * dim + c;
        const F32 v = loadAt(in, even, count), w = loadAt(in, even + dim, count);
        sink.put(even, v, count);
        sink.put(even + dim, w, count);
        sum[k] = v + w;
      }
      storeAt(partial, c, loadAt(partial, c, count) + ((sum[0] + sum[1]) + (sum[2] + sum[3])), count);
    });
  }
  for (; r < end; r++) {
    forVectors(0, dim, [&](int64_t c, int64_t count) FP8_LAMBDA {
      const F32 v = loadAt(in, r * dim + c, count);
      sink.put(r * dim + c, v, count);
      storeAt(partial, c, loadAt(partial, c, count) + v, count);
    });
  }
  if constexpr (recodes<Y, X>) sink.largest.bits = max(sink.largest.bits, recode.magnitude(1.0f));
  return sink.stats();
}

template <class X> void columnSumsRange(float* partial, const void* x, int64_t begin, int64_t end, int64_t dim) {
  castRowsRange<Nowhere, X>(nullptr, partial, x, 1.0f, begin, end, dim);
}

template <class Y, class X>
float accumulateAmaxRange(const void* y, const void* x, float scaleInv, int64_t begin, int64_t end) {
  const Y* old = static_cast<const Y*>(y);
  const X* in = static_cast<const X*>(x);
  AmaxSink sink;
  const F32 inv(scaleInv);
  emit(sink, begin, end, 0, [&](int64_t i, int64_t count) FP8_LAMBDA {
    prefetch(in + i);
    return loadAt(old, i, count) * inv + loadAt(in, i, count);
  });
  return sink.amax();
}

template <class Y, class X>
CastStats accumulateRange(void* y, const void* x, float scaleInv, float scale, int64_t begin, int64_t end) {
  const Y* old = static_cast<const Y*>(y);
  const X* in = static_cast<const X*>(x);
  Sink<Y> sink(y, scale);
  const F32 inv(scaleInv);
  emit(sink, begin, end, 0, [&](int64_t i, int64_t count) FP8_LAMBDA {
    prefetch(in + i);
    return loadAt(old, i, count) * inv + loadAt(in, i, count);
  });
  return sink.stats();
}

int64_t countCodesRange(const uint8_t* x, uint8_t code, int64_t begin, int64_t end) {
  int64_t total = 0, i = begin;
  while (i + 64 <= end) {
    uint8_t counters[64] = {};  // 255 rounds fit a byte
    for (int round = 0; round < 255 && i + 64 <= end; round++, i += 64)
      for (int k = 0; k < 64; k++) counters[k] = uint8_t(counters[k] + ((x[i + k] & 0x7f) == code));
    for (int k = 0; k < 64; k++) total += counters[k];
  }
  for (; i < end; i++) total += (x[i] & 0x7f) == code;
  return total;
}

#define FP8_CAST_ROW(Y) {castRange<Y, float>, castRange<Y, BF16>, castRange<Y, F16>, castRange<Y, E4M3>, castRange<Y, E5M2>}
#define FP8_PAIR(name) {{name<E4M3, float>, name<E4M3, BF16>}, {name<E5M2, float>, name<E5M2, BF16>}}

extern const CastTable casts = {
    {FP8_CAST_ROW(float), FP8_CAST_ROW(BF16), FP8_CAST_ROW(F16), FP8_CAST_ROW(E4M3), FP8_CAST_ROW(E5M2)},
    {amaxRange<float>, amaxRange<BF16>, amaxRange<F16>, amaxRange<E4M3>, amaxRange<E5M2>},
    FP8_PAIR(castRowsRange),
    FP8_PAIR(accumulateAmaxRange),
    FP8_PAIR(accumulateRange),
    countCodesRange,
    {columnSumsRange<float>, columnSumsRange<BF16>},
};

}  // namespace fp8lm::FP8_VEC
