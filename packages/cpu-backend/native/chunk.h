// Pieces of a tensor of any dtype as floats in a small buffer, and back: for kernels whose arithmetic costs more than
// the extra pass through L1, so that their bodies need no copy for each combination of dtypes.
#pragma once
#include "vec.h"

namespace fp8lm::FP8_VEC {

constexpr int64_t kChunk = 256;

template <class T> FP8_INLINE void readAs(float* out, const void* data, int64_t at, int64_t n, float factor) {
  const T* p = static_cast<const T*>(data) + at;
  forVectors(0, n, [&](int64_t i, int64_t count) FP8_LAMBDA { store(out + i, loadAt(p, i, count) * F32(factor)); });
}

/// Values at .. at + n of x; `out` has room for n rounded up to 16.
static inline void readChunk(float* out, const Tensor& x, int64_t at, int64_t n) {
  const float factor = x.scaleInv();
  switch (x.dtype) {
    case DType::f32: return readAs<float>(out, x.data, at, n, factor);
    case DType::bf16: return readAs<BF16>(out, x.data, at, n, factor);
    case DType::f16: return readAs<F16>(out, x.data, at, n, factor);
    case DType::e4m3: return readAs<E4M3>(out, x.data, at, n, factor);
    default: return readAs<E5M2>(out, x.data, at, n, factor);
  }
}

/// The same for an f32 or bf16 tensor y, written.
static inline void writeChunk(const Tensor& y, int64_t at, int64_t n, const float* x) {
  if (y.dtype == DType::bf16) {
    BF16* p = y.as<BF16>() + at;
    forVectors(0, n, [&](int64_t i, int64_t count) FP8_LAMBDA { storeAt(p, i, load(x + i), count); });
  } else {
    memcpy(y.as<float>() + at, x, size_t(n) * sizeof(float));
  }
}

}  // namespace fp8lm::FP8_VEC
