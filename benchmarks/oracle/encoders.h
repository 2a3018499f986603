// The encoders under test, one line each. To check another implementation (a SIMD kernel), include its header here and
// add its line: it must give the bits of its format for every float32 pattern, at every length and alignment.
#pragma once
#include <cstddef>

#include "../../packages/fp8-kernels/native/float8.h"
#include "formats.h"

namespace oracle {

/// Casts count floats. Code is uint8_t for the 8-bit formats and uint16_t for the 16-bit ones.
template <class Code> using EncodeMany = void (*)(const float* x, Code* out, size_t count);

template <class Code> struct Encoder {
  const char* name;
  Format format;
  bool saturate;
  EncodeMany<Code> encode;
};

template <class Code, Code (*encodeOne)(float)> void each(const float* x, Code* out, size_t count) {
  for (size_t i = 0; i < count; i++) out[i] = encodeOne(x[i]);
}

inline uint8_t e4m3Saturating(float x) { return fp8lm::encodeE4M3(x, true); }
inline uint8_t e4m3Overflowing(float x) { return fp8lm::encodeE4M3(x, false); }
inline uint8_t e5m2Saturating(float x) { return fp8lm::encodeE5M2(x, true); }
inline uint8_t e5m2Overflowing(float x) { return fp8lm::encodeE5M2(x, false); }
inline uint16_t f16Saturating(float x) { return fp8lm::encodeF16(x, true); }
inline uint16_t f16Overflowing(float x) { return fp8lm::encodeF16(x, false); }

const Encoder<uint8_t> encoders8[] = {
    {"float8.h e4m3 saturating", e4m3, true, each<uint8_t, e4m3Saturating>},
    {"float8.h e4m3 to NaN", e4m3, false, each<uint8_t, e4m3Overflowing>},
    {"float8.h e5m2 saturating", e5m2, true, each<uint8_t, e5m2Saturating>},
    {"float8.h e5m2 to infinity", e5m2, false, each<uint8_t, e5m2Overflowing>},
};

const Encoder<uint16_t> encoders16[] = {
    {"float8.h f16 to infinity", f16, false, each<uint16_t, f16Overflowing>},
    {"float8.h f16 saturating", f16, true, each<uint16_t, f16Saturating>},
    {"float8.h bf16", bf16, false, each<uint16_t, fp8lm::encodeBF16>},
};

}  // namespace oracle
