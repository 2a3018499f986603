// AdamW at speed: the same bits as math::adamwUpdate with fewer instructions, for scales that are powers of two.
//
// Decoding multiplies the stored value by scaleInv, and the update multiplies the result by a constant: b1 * (m * inv). If
// inv is a power of two and nothing leaves the normal range, m * inv is exact and so is b1 * inv, and (b1 * inv) * m rounds
// the same real number once: the same bits for one multiplication less. `foldable` states the ranges: the smallest stored
// value (2^-24 for f16) times inv stays normal. The gradient's scale may be anything: auto-scaling multiplies it by mu.
//
// With an FP8 gradient the scales of the new values are folded in as well (`scaledInside`): p, m and v are computed times their
// scales, v times an even power of two so that its root is the scaled root. Every intermediate is then a power of two times the
// one of adamwUpdate, and rounds alike, as long as none leaves the normal range: the smallest FP8 gradient that is not zero has a
// square that does not (an f32 gradient may have any).
//
// Casts leave out NaN and range, since a pass whose guessed scales or values turn out wrong is undone (adamw.cc): p sees
// every NaN and infinity (m or v NaN makes u NaN; m infinite makes u infinite or NaN) but for v = inf, which its own amax
// shows, and e4m3 NaN codes, which NanWatch sees.
#pragma once
#include "adamw.h"
#include "sinks.h"

namespace fp8lm::FP8_VEC {

/// As for the general forms; `apply` writes without measuring.
enum class Folded { update, apply, measure, moments, rewrite };

FP8_INLINE bool foldable(const AdamWJob& j) {
  const math::AdamWStep& s = j.step;
  return isPowerOfTwo(j.p.inv) && isPowerOfTwo(j.m.inv) && isPowerOfTwo(j.v.inv) && j.gradInv >= 0x1p-80f && j.gradInv <= 0x1p80f &&
         s.beta1 >= 0x1p-10f && s.beta2 >= 0x1p-10f && s.decay >= 0x1p-10f;
}

/// For `scaledInside`. The bounds keep every number that is not zero normal: the smallest gradient is 2^-9 gradInv, the smallest
/// difference of moments 2^-24 of the smaller; and the smallest step, where p is zero, does not vanish.
FP8_INLINE bool foldableInside(const AdamWJob& j) {
  const math::AdamWStep& s = j.step;
  const float least = j.gradInv * s.clip;
  const auto within = [](float x, float low, float high) { return x >= low && x <= high; };
  const auto state = [&](const AdamWJob::State& x) {
    return within(x.inv, 0x1p-60f, 0x1p60f) && within(x.scale, 0x1p-60f, 0x1p60f) && isPowerOfTwo(x.scale);
  };
  return within(least, 0x1p-48f, 0x1p40f) && s.oneMinusBeta1 >= 0x1p-10f && s.oneMinusBeta2 >= 0x1p-10f &&
         (s.step == 0.0f || within(s.step, 0x1p-30f, 0x1p10f)) && within(s.rootCorrection2, 1.0f, 0x1p10f) && state(j.p) && state(j.m) &&
         isPowerOfTwo(j.v.scale) && j.v.inv <= 0x1p20f;
}

/// Of 2^(2k): 2^k.
inline float rootOfPower(float x) { return fp8lm::floatOf(((fp8lm::bitsOf(x) >> 23) + 127) / 2 << 23); }

/// Bits of a magnitude over a power of two; NaN and infinity stay.
inline uint32_t unscaled(uint32_t bits, float by) { return bits >= 0x7f800000u ? bits : fp8lm::bitsOf(fp8lm::floatOf(bits) / by); }

template <class W, class P, class G, class M, class V, Folded form>
AdamWStats foldedRange(const AdamWJob& job, int64_t begin, int64_t end) {
  constexpr bool scaledInside = isSame<G, E4M3> && isScaled<P> && isScaled<M> && isScaled<V> &&
                                (form == Folded::update || form == Folded::apply || form == Folded::measure);
  const math::AdamWStep& s = job.step;
  P* const p = static_cast<P*>(job.p.data);
  M* const m = static_cast<M*>(job.m.data);
  V* const v = static_cast<V*>(job.v.data);
  const G* const grad = static_cast<const G*>(job.grad);
  // By what p, m and v are multiplied inside; v is stored times twice that if its scale is an odd power of two.
  const bool oddV = scaledInside && (fp8lm::bitsOf(job.v.scale) >> 23 & 1) == 0;
  const float byP = scaledInside ? job.p.scale : 1.0f, byM = scaledInside ? job.m.scale : 1.0f;
  const float byV = scaledInside ? oddV ? job.v.scale * 0.5f : job.v.scale : 1.0f, rootByV = rootOfPower(byV);
  const bool clipped = s.clip != 1.0f;
  const F32 gradInv(job.gradInv * rawFactor<G>), clip(s.clip), oneMinusBeta1(s.oneMinusBeta1 * byM), oneMinusBeta2(s.oneMinusBeta2 * byV);
  const F32 beta1(s.beta1 * (job.m.inv * rawFactor<M>)*byM), beta2(s.beta2 * (job.v.inv * rawFactor<V>)*byV);
  const F32 decay(s.decay * (job.p.inv * rawFactor<P>)*byP), rootCorrection2(s.rootCorrection2 / rootByV), eps(s.eps);
  const F32 step(s.step * (byP / byM));
  const F32 pScale(job.p.scale), mScale(job.m.scale), vScale(job.v.scale), wFactor(job.masterInv * rawFactor<P>), wScale(job.wScale);
  NanWatch<P> nanP;
  NanWatch<G> nanG;
  NanWatch<M> nanM;
  NanWatch<V> nanV;
  AmaxSink largestP, largestM, largestV;    // with NaN as the largest
  MagnitudeSink magnitudeM, magnitudeV;
  for (int64_t i = begin; i < end; i += kGroup) {
    for (size_t k = 0; k < sizeof(G); k++) prefetch(grad + i, int64_t(2048 + 64 * k));
    for (size_t k = 0; k < sizeof(M); k++) prefetch(m + i, int64_t(2048 + 64 * k));
    for (size_t k = 0; k < sizeof(V); k++) prefetch(v + i, int64_t(2048 + 64 * k));
    const M* const oldM = form == Folded::rewrite ? static_cast<const M*>(job.m.undo) : m;
    const V* const oldV = form == Folded::rewrite ? static_cast<const V*>(job.v.undo) : v;
    const Group g0 = loadGroup(grad + i, nanG), m0 = loadGroup(oldM + i, nanM), v0 = loadGroup(oldV + i, nanV);
    Group m1, v1, p1;
    for (int k = 0; k < 4; k++) {
      F32 g = g0.v[k];
      if constexpr (isScaled<G>) g = g * gradInv;
      if (clipped) g = g * clip;
      m1.v[k] = m0.v[k] * beta1 + oneMinusBeta1 * g;
      v1.v[k] = v0.v[k] * beta2 + oneMinusBeta2 * (g * g);
    }
    if constexpr (form == Folded::rewrite) {
      for (int k = 0; k < 4; k++) {
        if constexpr (isScaled<M>) m1.v[k] = m1.v[k] * mScale;
        if constexpr (isScaled<V>) v1.v[k] = v1.v[k] * vScale;
      }
      if (job.rewriteM) storeGroup(m + i, m1);
      if (job.rewriteV) storeGroup(v + i, v1);
    } else if constexpr (form == Folded::moments) {
      for (int k = 0; k < 4; k++) largestM.put(m1.v[k]), largestV.put(v1.v[k]);
    } else {
      for (size_t k = 0; k < sizeof(P); k++) prefetch(p + i, int64_t(2048 + 64 * k));
      const Group p0 = loadGroup(p + i, nanP);
      for (int k = 0; k < 4; k++) {
        const F32 u = m1.v[k] / (sqrt(v1.v[k]) * rootCorrection2 + eps);
        p1.v[k] = p0.v[k] * decay - step * u;
      }
      if constexpr (form == Folded::update) {
        const bool stream = job.stream;
        copyGroup<P>(static_cast<P*>(job.p.undo) + i, p + i, stream);
        copyGroup<M>(static_cast<M*>(job.m.undo) + i, m + i, stream);
        copyGroup<V>(static_cast<V*>(job.v.undo) + i, v + i, stream);
      }
      if constexpr (form == Folded::update || form == Folded::measure) {
        for (int k = 0; k < 4; k++) {
          largestP.put(p1.v[k]);
          if constexpr (isScaled<M>) magnitudeM.put(m1.v[k]);
          if constexpr (isScaled<V>) magnitudeV.put(v1.v[k]);
        }
      }
      if constexpr (form == Folded::measure) continue;
      if constexpr (scaledInside) {
        if (oddV)
          for (int k = 0; k < 4; k++) v1.v[k] = v1.v[k] + v1.v[k];
      } else {
        for (int k = 0; k < 4; k++) {
          if constexpr (isScaled<P>) p1.v[k] = p1.v[k] * pScale;
          if constexpr (isScaled<M>) m1.v[k] = m1.v[k] * mScale;
          if constexpr (isScaled<V>) v1.v[k] = v1.v[k] * vScale;
        }
      }
      storeGroup(m + i, m1);
      storeGroup(v + i, v1);
      storeGroup(p + i, p1);
      if constexpr (!isSame<W, Nowhere>) {
        Group stored = loadGroup(p + i, nanP);
        for (int k = 0; k < 4; k++) {
          if constexpr (isScaled<P>) stored.v[k] = stored.v[k] * wFactor;
          if constexpr (isScaled<W>) stored.v[k] = stored.v[k] * wScale;
        }
        storeGroup(static_cast<W*>(job.w) + i, stored);
      }
    }
  }
  constexpr uint32_t kNaN = 0x7fc00000u;
  AdamWStats stats{uint32_t(maxLanes(largestP.bits)), uint32_t(maxLanes(largestM.bits)), uint32_t(maxLanes(largestV.bits))};
  if (form == Folded::update || form == Folded::measure) stats.m = magnitudeM.bits(), stats.v = magnitudeV.bits();
  if constexpr (scaledInside) {
    stats.p = unscaled(stats.p, byP);
    stats.m = unscaled(stats.m, byM);
    stats.v = unscaled(stats.v, byV);
  }
  if (nanP.seen() || nanG.seen() || nanM.seen() || nanV.seen()) stats.p = stats.m = stats.v = kNaN;
  return stats;
}

}  // namespace fp8lm::FP8_VEC
