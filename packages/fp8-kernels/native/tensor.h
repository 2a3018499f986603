// What a kernel sees of a tensor: bytes, number of elements, dtype, and for scaled dtypes its scale block.
// Shared by the CPU and CUDA backends and mirrored by packages/fp8-core/src/dtype.ts.
#pragma once
#include <cstdint>

namespace fp8lm {

enum class DType : int32_t { f32 = 0, bf16 = 1, f16 = 2, e4m3 = 3, e5m2 = 4, i32 = 5, u16 = 6, u8 = 7 };

constexpr int64_t bytesOf(DType t) {
  switch (t) {
    case DType::f32: case DType::i32: return 4;
    case DType::bf16: case DType::f16: case DType::u16: return 2;
    default: return 1;
  }
}

/// Largest finite value of a dtype that takes a scale; the `max` of scale = 2^floor(log2(max / amax)).
constexpr float maxOf(DType t) {
  return t == DType::e4m3 ? 448.0f : t == DType::e5m2 ? 57344.0f : t == DType::f16 ? 65504.0f : 3.402823466e38f;
}

/// The scale block of a scaled tensor, four floats in the backend's own memory so that no kernel needs the host:
/// stored value = value * scale, value = stored value * scaleInv. `amax` is the largest |value| seen by the cast that
/// wrote the tensor (+inf if it met a NaN), `saturated` the number of elements that the cast clamped. scaleInv is first, at the
/// block's own address: a multiple of 16, as cuBLASLt wants of the scales it reads.
enum ScaleSlot { kScaleInv = 0, kScale = 1, kAmax = 2, kSaturated = 3, kScaleBlock = 4 };

/// One amax window (delayed scaling), `kWindowBlock` floats: updates since the last (re)start, the scale to use now, the
/// amax of the running step, and the amaxes of up to 15 earlier steps, newest first.
enum WindowSlot { kWindowCount = 0, kWindowScale = 1, kWindowAmax = 2, kWindowHistory = 3, kWindowBlock = 18 };
constexpr int kWindow = 16;

struct Tensor {
  void* data;
  int64_t size;  // elements
  DType dtype;
  float* scale;  // scale block or null; null means a scale of 1
  template <class T> T* as() const { return static_cast<T*>(data); }
  float scaleInv() const { return scale ? scale[kScaleInv] : 1.0f; }
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace fp8lm
