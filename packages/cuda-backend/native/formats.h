// Stored formats as types, for kernels that are compiled once a dtype: Form<DType::e4m3>::decode(code), encode(value).
// Groups of 16 elements are the unit of memory-bound kernels: one 16-byte access of a one-byte format, two of a two-byte one.
#pragma once
#include <type_traits>

#include "device.h"

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

constexpr int kGroup = 16;
constexpr int kThreads = 256;

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
  /// Elements [i, i + count) of a group; the rest of `v` is 0.
  __device__ __forceinline__ void load(int64_t i, int count, float inv, float v[kGroup]) const {
    constexpr int per = 16 / sizeof(Code<D>);
    if (aligned && count == kGroup) {
#pragma unroll
      for (int k = 0; k < kGroup; k += per) {
        const Vec<Code<D>> in = loadVec(data, i + k);
#pragma unroll
        for (int q = 0; q < per; q++) {
          v[k + q] = Form<D>::decode(in.v[q]);
          if constexpr (isScaled<D>) v[k + q] = math::mul(v[k + q], inv);
        }
      }
    } else {
#pragma unroll
      for (int k = 0; k < kGroup; k++) v[k] = k < count ? one(i + k, inv) : 0.0f;
    }
  }
};

template <DType D> struct Output {
  Ptr<Code<D>> data;
  bool aligned;
  __device__ __forceinline__ void store(int64_t i, int count, const Code<D> c[kGroup]) const {
    constexpr int per = 16 / sizeof(Code<D>);
    if (aligned && count == kGroup) {
#pragma unroll
      for (int k = 0; k < kGroup; k += per) {
        Vec<Code<D>> out;
#pragma unroll
        for (int q = 0; q < per; q++) out.v[q] = c[k + q];
        storeVec(data, i + k, out);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kGroup; k++)
        if (k < count) data[i + k] = c[k];
    }
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
