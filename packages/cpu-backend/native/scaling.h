// The scale of a tensor that a kernel is about to write, and the bookkeeping after it: delayed scaling from an amax window
// (tensor.h) once it is warm, just in time otherwise. Kernels with an fp8 output hand in two passes over their values.
#pragma once
#include "../../fp8-kernels/native/float8.h"
#include "../../fp8-kernels/native/tensor.h"

namespace fp8lm {

/// A dtype's place in the tables of range functions.
inline int typeIndex(const Tensor& t) { return int(t.dtype); }

/// What a cast saw: the largest |value| (+inf if any NaN) and how many values it clamped.
struct CastStats {
  float amax = 0.0f;
  int64_t saturated = 0;
  void merge(const CastStats& other) {
    if (other.amax > amax) amax = other.amax;
    saturated += other.saturated;
  }
};

/// The value that the tensor's present scale gives way to when an amax is zero or not finite.
inline float previousScale(const Tensor& y) {
  const float s = y.scale ? y.scale[kScale] : 1.0f;
  return s > 0.0f && bitsOf(s) < 0x7f800000u ? s : 1.0f;
}

inline void writeScale(const Tensor& y, float scale, const CastStats& stats) {
  if (!y.scale) return;
  y.scale[kScale] = scale;
  y.scale[kScaleInv] = 1.0f / scale;
  y.scale[kAmax] = stats.amax;
  y.scale[kSaturated] = float(stats.saturated);
}

/// Writes scaled tensor y: amaxPass() returns the amax of its values, castPass(scale) stores them and returns CastStats.
/// amaxPass runs only just in time (no window, or fewer than 16 updates in it). A tensor without scale block keeps 1.
template <class A, class C>
void writeScaled(const Tensor& y, const Tensor& window, float mu, A&& amaxPass, C&& castPass) {
  float scale = 1.0f;
  float* const w = window ? window.as<float>() : nullptr;
  if (y.scale && w && w[kWindowCount] >= float(kWindow)) scale = w[kWindowScale] * mu;
  else if (y.scale) scale = scaleFor(amaxPass(), maxOf(y.dtype), w ? (w[kWindowScale] > 0 ? w[kWindowScale] : 1.0f) : previousScale(y)) * mu;
  const CastStats stats = castPass(scale);
  if (w && stats.amax > w[kWindowAmax]) w[kWindowAmax] = stats.amax;
  writeScale(y, scale, stats);
}

/// Slot of the amax pass in tables of ops by output dtype: f16, which no op writes.
constexpr int kAmaxPass = int(DType::f16);

/// Writes the output of an op, plain or scaled: pass(slot, scale) runs it with the output form `slot`, a typeIndex or
/// kAmaxPass.
template <class P> void writeOutput(const Tensor& y, const Tensor& window, P&& pass) {
  if (y.dtype < DType::f16) pass(typeIndex(y), 1.0f);
  else writeScaled(
      y, window, 1.0f, [&] { return pass(kAmaxPass, 1.0f).amax; }, [&](float scale) { return pass(typeIndex(y), scale); });
}

}  // namespace fp8lm
