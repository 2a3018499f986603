// Stored formats as types, for kernels that are compiled once a dtype: Form<DType::e4m3>::decode(code), encode(value).
// Groups of 8 elements are the unit of memory-bound kernels: one 16-byte access of a two-byte format, neighbours in neighbours.
#pragma once
#include <type_traits>

#include "packed.h"

namespace fp8lm {

template <DType D> struct Form;
template <> struct Form<DType::f32> {
  using Code = float;
  static __device__ __forceinline__ float decode(float c) { return c; }
  static __device__ __forceinline__ float encode(float x) { return x; }
};
template <> struct Form<DType::bf16> {
  using Code = uint16_t;
  static __device__ __forceinline__ float decode(uint16_t c) { return decodeBF16(c); }
  static __device__ __forceinline__ uint16_t encode(float x) { return encodeBF16(x); }
};
template <> struct Form<DType::f16> {
  using Code = uint16_t;
  static __device__ __forceinline__ float decode(uint16_t c) { return decodeF16(c); }
  static __device__ __forceinline__ uint16_t encode(float x) { return encodeF16(x, true); }
};
template <> struct Form<DType::e4m3> {
  using Code = uint8_t;
  static __device__ __forceinline__ float decode(uint8_t c) { return decodeE4M3(c); }
  static __device__ __forceinline__ uint8_t encode(float x) { return encodeE4M3(x); }
};
template <> struct Form<DType::e5m2> {
  using Code = uint8_t;
  static __device__ __forceinline__ float decode(uint8_t c) { return decodeE5M2(c); }
  static __device__ __forceinline__ uint8_t encode(float x) { return encodeE5M2(x); }
};
template <DType D> using Code = typename Form<D>::Code;
__device__ __forceinline__ uint32_t bitsOfCode(float c) { return bitsOf(c); }
__device__ __forceinline__ uint32_t bitsOfCode(uint16_t c) { return c; }
__device__ __forceinline__ uint32_t bitsOfCode(uint8_t c) { return c; }
template <class C> __device__ __forceinline__ C codeOf(uint32_t bits) {
  if constexpr (std::is_same_v<C, float>) return floatOf(bits);
  else return C(bits);
}
template <DType D> constexpr bool isScaled = D == DType::f16 || D == DType::e4m3 || D == DType::e5m2;
inline bool isScaledType(DType t) { return t == DType::f16 || t == DType::e4m3 || t == DType::e5m2; }

template <DType D> using Of = std::integral_constant<DType, D>;

/// Calls f(Of<D>{}) for the dtype t, one of the list.
template <DType... D, class F> inline void withOneOf(DType t, F&& f) {
  (void)((t == D ? (f(Of<D>{}), true) : false) || ...);
}
template <class F> inline void withAct(DType t, F&& f) { withOneOf<DType::f32, DType::bf16>(t, f); }
template <class F> inline void withFp8(DType t, F&& f) { withOneOf<DType::e4m3, DType::e5m2>(t, f); }
template <class F> inline void withAny(DType t, F&& f) {
  withOneOf<DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2>(t, f);
}

constexpr int kThreads = 256;

constexpr int kGroup = 8;
template <DType D> using Group = Packed<D, kGroup>;

/// A tensor that a kernel reads in groups: decoded, times its scaleInv.
template <DType D> struct Input {
  Ptr<const Code<D>> data;
  Ptr<const float> scale;
  bool aligned;

  __device__ __forceinline__ float inv() const {
    if constexpr (isScaled<D>) return scale ? float(scale[kScaleInv]) : 1.0f;
    else return 1.0f;
  }
  __device__ __forceinline__ float one(int64_t i, float inv) const {
    const float v = Form<D>::decode(data[i]);
    if constexpr (isScaled<D>) return math::mul(v, inv);
    else return v;
  }
  /// Elements [i, i + count) as stored, i a multiple of N; the rest is 0.
  template <int N = kGroup> __device__ __forceinline__ Packed<D, N> fetch(int64_t i, int count) const {
    Packed<D, N> p;
    if (aligned && count == N) {
      loadWords(data, i, p.w);
    } else {
      constexpr int per = 4 / int(sizeof(Code<D>));
#pragma unroll
      for (int q = 0; q < Packed<D, N>::kWords; q++) {
        p.w[q] = 0u;
#pragma unroll
        for (int k = 0; k < per; k++)
          if (q * per + k < count) p.w[q] |= bitsOfCode(data[i + q * per + k]) << (k * 32 / per);
      }
    }
    return p;
  }
  template <int N> __device__ __forceinline__ void values(const Packed<D, N>& p, float inv, float (&v)[N]) const {
    unpack(p, v);
    if constexpr (isScaled<D>) {
#pragma unroll
      for (int k = 0; k < N; k++) v[k] = math::mul(v[k], inv);
    }
  }
  /// Elements [i, i + count) of a group; the rest of `v` is 0.
  __device__ __forceinline__ void load(int64_t i, int count, float inv, float (&v)[kGroup]) const { values(fetch(i, count), inv, v); }
};

template <DType D> struct Output {
  Ptr<Code<D>> data;
  bool aligned;

  template <int N> __device__ __forceinline__ void store(int64_t i, int count, const Packed<D, N>& p) const {
    if (aligned && count == N) return storeWords(data, i, p.w);
    constexpr int per = 4 / int(sizeof(Code<D>));
#pragma unroll
    for (int k = 0; k < N; k++)
      if (k < count) data[i + k] = codeOf<Code<D>>(p.w[k / per] >> (k % per * 32 / per));
  }
};

inline bool isAligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }

template <DType D> inline Input<D> input(const Tensor& t, const char* name) {
  return {ptr<const Code<D>>(t, name), scalePtr(t, name), isAligned(t)};
}
template <DType D> inline Output<D> output(const Tensor& t, const char* name) {
  return {ptr<Code<D>>(t, name), isAligned(t)};
}

/// One element of any dtype, for the kernels where that choice costs nothing that counts.
struct AnyInput {
  Ptr<const float> f32;
  Ptr<const uint16_t> half;
  Ptr<const uint8_t> byte;
  Ptr<const float> scale;
  DType dtype;

  explicit AnyInput(const Tensor& t, const char* name) : dtype(t.dtype) {
    if (t.dtype == DType::f32) f32 = ptr<const float>(t, name);
    else if (bytesOf(t.dtype) == 2) half = ptr<const uint16_t>(t, name);
    else byte = ptr<const uint8_t>(t, name);
    scale = scalePtr(t, name);
  }
  __device__ __forceinline__ float inv() const { return scale ? float(scale[kScaleInv]) : 1.0f; }
  /// The stored value, without the scale.
  __device__ __forceinline__ float stored(int64_t i) const {
    switch (dtype) {
      case DType::f32: return f32[i];
      case DType::bf16: return decodeBF16(half[i]);
      case DType::f16: return decodeF16(half[i]);
      case DType::e4m3: return decodeE4M3(byte[i]);
      default: return decodeE5M2(byte[i]);
    }
  }
  __device__ __forceinline__ float value(int64_t i, float inv) const {
    const float v = stored(i);
    return scale ? math::mul(v, inv) : v;
  }
};

}  // namespace fp8lm
