// Other people's casts, as second and third opinions: NVIDIA's host functions (cuda_fp8.h, where a CUDA toolkit is
// installed) for e4m3 and e5m2, and the CPU's own conversion (F16C) for f16. Neither is needed to run the oracle.
// Both have their own idea of NaN (NVIDIA drops its sign, F16C keeps its payload), so a NaN is compared as a NaN.
#pragma once
#include "encoders.h"

#if __has_include(<cuda_fp8.h>)
#include <cuda_fp8.h>
#define HAS_CUDA_FP8 1
#else
#define HAS_CUDA_FP8 0
#endif
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace oracle {

#if HAS_CUDA_FP8
template <__nv_saturation_t saturation, __nv_fp8_interpretation_t kind>
void nvidiaMany(const float* x, uint8_t* out, size_t count) {
  for (size_t i = 0; i < count; i++) out[i] = __nv_cvt_float_to_fp8(x[i], saturation, kind);
}
#endif

inline EncodeMany<uint8_t> opinion(const Encoder<uint8_t>& encoder) {
#if HAS_CUDA_FP8
  const bool wide = encoder.format.mantissaBits == 2;
  if (encoder.saturate) return wide ? nvidiaMany<__NV_SATFINITE, __NV_E5M2> : nvidiaMany<__NV_SATFINITE, __NV_E4M3>;
  return wide ? nvidiaMany<__NV_NOSAT, __NV_E5M2> : nvidiaMany<__NV_NOSAT, __NV_E4M3>;
#else
  (void)encoder;
  return nullptr;
#endif
}

#if defined(__F16C__)
inline void f16cMany(const float* x, uint16_t* out, size_t count) {
  for (size_t i = 0; i < count; i++) out[i] = uint16_t(_cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT));
}
#endif

inline EncodeMany<uint16_t> opinion(const Encoder<uint16_t>& encoder) {
#if defined(__F16C__)
  if (encoder.format.mantissaBits == 10 && !encoder.saturate) return f16cMany;
#endif
  (void)encoder;
  return nullptr;
}

/// NVIDIA's decode of an fp8 code, as f16 bits; false where there is no toolkit.
inline bool nvidiaDecode(const Format& f, uint8_t code, uint16_t& half) {
#if HAS_CUDA_FP8
  half = __nv_cvt_fp8_to_halfraw(code, f.mantissaBits == 2 ? __NV_E5M2 : __NV_E4M3).x;
  return true;
#else
  (void)f, (void)code, (void)half;
  return false;
#endif
}

}  // namespace oracle
