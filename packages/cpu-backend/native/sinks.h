// Where a kernel's float32 results go: a stored tensor, scaled or not, or only their amax. An op with an fp8 output is one
// template over its sink, run with AmaxSink and then with Sink<E4M3> just in time, or with Sink<E4M3> alone.
#pragma once
#include "narrow.h"
#include "scaling.h"

namespace fp8lm::FP8_VEC {

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

/// f32 or bf16, known only at run time: for rare mixes, where a template for each would be too many.
struct Act {};
template <class T> FP8_INLINE F32 loadAct(const void* p, DType type, int64_t i, int64_t count) {
  if constexpr (isSame<T, Act>)
    return type == DType::bf16 ? loadAt(static_cast<const BF16*>(p), i, count) : loadAt(static_cast<const float*>(p), i, count);
  else return loadAt(static_cast<const T*>(p), i, count);
}
template <class T> FP8_INLINE void storeAct(void* p, DType type, int64_t i, F32 x, int64_t count) {
  if constexpr (isSame<T, Act>) {
    if (type == DType::bf16) storeAt(static_cast<BF16*>(p), i, x, count);
    else storeAt(static_cast<float*>(p), i, x, count);
  } else {
    storeAt(static_cast<T*>(p), i, x, count);
  }
}

struct Nowhere {};  // a memory type that is not stored

/// The largest |x| as bits, which order like magnitudes with NaN above infinity.
struct AmaxSink {
  I32 bits = I32(0);
  FP8_INLINE AmaxSink() = default;
  FP8_INLINE AmaxSink(void*, float) {}
  FP8_INLINE void put(F32 x) { bits = max(bits, bitsOf(x) & I32(0x7fffffff)); }
  FP8_INLINE void put(int64_t, F32 x, int64_t count) { put(firstLanes(x, count)); }
  FP8_INLINE void putGroup(int64_t, const Group& x) {
    for (int k = 0; k < 4; k++) put(x.v[k]);
  }
  FP8_INLINE float amax() const {
    const uint32_t u = uint32_t(maxLanes(bits));
    return fp8lm::floatOf(u > 0x7f800000u ? 0x7f800000u : u);
  }
  FP8_INLINE CastStats stats() const { return {amax(), 0}; }
};

template <class Y> constexpr float maxStored = 3.402823466e38f;
template <> constexpr float maxStored<F16> = 65504.0f;
template <> constexpr float maxStored<E4M3> = 448.0f;
template <> constexpr float maxStored<E5M2> = 57344.0f;

/// Stores to y[i ...] as Y: times the scale for scaled types, with amax and the number of clamped values; plain otherwise. FP8 codes
/// go past the caches: their block was last read by a product on all cores, and a cached store would wait for each of them to
/// give its copy up (three times the time on Zen 4). `stats` ends a thread's range and makes them visible to the others.
template <class Y> struct Sink {
  static constexpr bool streams = isSame<Y, E4M3> || isSame<Y, E5M2>;
  Y* y;
  F32 scale;
  AmaxSink largest;
  I32 clamped = I32(0);
  FP8_INLINE Sink(void* y_, float scale_) : y(static_cast<Y*>(y_)), scale(scale_) {}
  FP8_INLINE void put(int64_t i, F32 x, int64_t count) {
    if constexpr (isSame<Y, Nowhere>) return;
    else if constexpr (isScaled<Y>) {
      const F32 counted = firstLanes(x, count), t = counted * scale;
      largest.put(counted);
      clamped = clamped - (abs(t) > F32(maxStored<Y>));
      storeAt(y, i, t, count);
    } else {
      storeAt(y, i, x, count);
    }
  }
  /// The common case takes the short way: no value of the group is NaN or out of range, as its largest magnitude shows.
  FP8_INLINE void putGroup(int64_t i, const Group& x) {
    if constexpr (isSame<Y, Nowhere>) return;
    else if constexpr (isScaled<Y>) {
      AmaxSink group;
      for (int k = 0; k < 4; k++) group.put(x.v[k]);
      if (allAtMost(floatOf(group.bits) * scale, maxStored<Y>)) {
        largest.bits = max(largest.bits, group.bits);
        storeGroup<Y, streams>(y + i, Group{{x.v[0] * scale, x.v[1] * scale, x.v[2] * scale, x.v[3] * scale}});
        return;
      }
      for (int k = 0; k < 4; k++) put(i + k * kLanes, x.v[k], kLanes);
    } else {
      storeGroup(y + i, x);
    }
  }
#if FP8_VEC_AVX512
  /// x[0 .. 63] as they are stored, where `recode.on`; false, and nothing done, if a code is not a normal number.
  template <class X> FP8_INLINE bool putStored(int64_t i, const X* x, Recode<Y, X>& recode) {
    __m512i codes;
    if (!recode.encode(x, codes)) return false;
    storeCodes<streams>(y + i, codes);
    return true;
  }
#endif
  FP8_INLINE CastStats stats() const {
    if constexpr (streams) streamed();
    return {largest.amax(), sumLanes(clamped)};
  }
};

/// The largest magnitude of values without NaN.
struct MagnitudeSink {
#if FP8_VEC_AVX512
  vf largest = {};
  FP8_INLINE void put(F32 x) { largest = _mm512_range_ps(largest, x.a, 0x0b); }  // max of magnitudes, sign cleared
  FP8_INLINE uint32_t bits() const { return fp8lm::bitsOf(maxLanes(F32(largest))); }
#else
  AmaxSink sink;
  FP8_INLINE void put(F32 x) { sink.put(x); }
  FP8_INLINE uint32_t bits() const { return uint32_t(maxLanes(sink.bits)); }
#endif
};

}  // namespace fp8lm::FP8_VEC
