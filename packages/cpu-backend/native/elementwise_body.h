// Elementwise kernels over ranges, on the instruction set this file is compiled for.
#pragma once
#include "elementwise.h"
#include "sinks.h"

namespace fp8lm::FP8_VEC {

template <class Y, class A, class B>
void addRange(void* y, const void* a, const void* b, int64_t begin, int64_t end) {
  forVectors(begin, end, [&](int64_t i, int64_t count) FP8_LAMBDA {
    prefetch(static_cast<const A*>(a) + i), prefetch(static_cast<const B*>(b) + i);
    const F32 sum = loadAt(static_cast<const A*>(a), i, count) + loadAt(static_cast<const B*>(b), i, count);
    storeAt(static_cast<Y*>(y), i, sum, count);
  });
}

template <class Y, class X> void scaleRange(void* y, const void* x, float alpha, int64_t begin, int64_t end) {
  const F32 factor(alpha);
  forVectors(begin, end, [&](int64_t i, int64_t count) FP8_LAMBDA {
    prefetch(static_cast<const X*>(x) + i);
    storeAt(static_cast<Y*>(y), i, loadAt(static_cast<const X*>(x), i, count) * factor, count);
  });
}

template <class Out, class X>
CastStats geluRange(void* y, const void* x, float scale, int64_t begin, int64_t end) {
  Out sink(y, scale);
  emit(sink, begin, end, 0, [&](int64_t i, int64_t count) FP8_LAMBDA {
    prefetch(static_cast<const X*>(x) + i);
    return math::gelu(loadAt(static_cast<const X*>(x), i, count));
  });
  return sink.stats();
}

template <class Y, class A, class X>
void geluBackwardRange(void* dx, const void* dy, const void* x, int64_t begin, int64_t end) {
  forVectors(begin, end, [&](int64_t i, int64_t count) FP8_LAMBDA {
    const F32 slope = math::geluDerivative(loadAt(static_cast<const X*>(x), i, count));
    storeAt(static_cast<Y*>(dx), i, loadAt(static_cast<const A*>(dy), i, count) * slope, count);
  });
}

template <class Out, class X>
CastStats swigluRange(void* y, const void* x, float scale, int64_t begin, int64_t end, int64_t dim) {
  Out sink(y, scale);
  for (int64_t r = begin; r < end; r++) {
    const X* const gate = static_cast<const X*>(x) + r * 2 * dim;
    emit(sink, 0, dim, r * dim, [&](int64_t c, int64_t count) FP8_LAMBDA {
      return math::silu(loadAt(gate, c, count)) * loadAt(gate + dim, c, count);
    });
  }
  return sink.stats();
}

template <class Y, class A, class X>
void swigluBackwardRange(void* dx, const void* dy, const void* x, int64_t begin, int64_t end, int64_t dim) {
  for (int64_t r = begin; r < end; r++) {
    const X* const gate = static_cast<const X*>(x) + r * 2 * dim;
    const A* const grad = static_cast<const A*>(dy) + r * dim;
    Y* const out = static_cast<Y*>(dx) + r * 2 * dim;
    forVectors(0, dim, [&](int64_t c, int64_t count) FP8_LAMBDA {
      const F32 g = loadAt(gate, c, count), up = loadAt(gate + dim, c, count), d = loadAt(grad, c, count);
      const F32 s = math::sigmoid(g);
      storeAt(out, c, d * up * math::siluDerivative(g, s), count);
      storeAt(out + dim, c, d * (g * s), count);
    });
  }
}

#define FP8_IN(name, Y) {name<Y, float>, name<Y, BF16>}
#define FP8_OUTPUTS(name) \
  {FP8_IN(name, Sink<float>), FP8_IN(name, Sink<BF16>), FP8_IN(name, AmaxSink), FP8_IN(name, Sink<E4M3>), FP8_IN(name, Sink<E5M2>)}
#define FP8_TWO(name, Y) {{name<Y, float, float>, name<Y, float, BF16>}, {name<Y, BF16, float>, name<Y, BF16, BF16>}}
#define FP8_THREE(name) {FP8_TWO(name, float), FP8_TWO(name, BF16)}

extern const ElementwiseTable elementwise = {
    FP8_THREE(addRange),
    {FP8_IN(scaleRange, float), FP8_IN(scaleRange, BF16)},
    FP8_OUTPUTS(geluRange),
    FP8_THREE(geluBackwardRange),
    FP8_OUTPUTS(swigluRange),
    FP8_THREE(swigluBackwardRange),
};

}  // namespace fp8lm::FP8_VEC
