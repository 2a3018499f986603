// AdamW and the sums over gradients, on the instruction set this file is compiled for. Dtypes of p, w, gradient, m and v
// may be anything: the general code here goes through `Any`, which picks its conversion at run time for each vector. The
// mixes of the recipes run in adamw_folded.h, with the general code for what is left after the last group of 64.
#pragma once
#include "adamw_folded.h"
#include "sinks.h"

namespace fp8lm::FP8_VEC {

struct Any {};  // a memory type known at run time
template <class W> struct AnyUnlessNowhere { using type = Any; };
template <> struct AnyUnlessNowhere<Nowhere> { using type = Nowhere; };
template <class W> using AnyOr = typename AnyUnlessNowhere<W>::type;

// Calls rather than inlined: a body with `Any` in it would hold five conversions at each place.
__attribute__((noinline)) void loadAny(float* lanes, const void* p, DType type, int64_t i, int64_t count) {
  switch (type) {
    case DType::bf16: return store(lanes, loadAt(static_cast<const BF16*>(p), i, count));
    case DType::f16: return store(lanes, loadAt(static_cast<const F16*>(p), i, count));
    case DType::e4m3: return store(lanes, loadAt(static_cast<const E4M3*>(p), i, count));
    case DType::e5m2: return store(lanes, loadAt(static_cast<const E5M2*>(p), i, count));
    default: return store(lanes, loadAt(static_cast<const float*>(p), i, count));
  }
}

__attribute__((noinline)) void storeAny(void* p, DType type, int64_t i, const float* lanes, int64_t count) {
  const F32 x = load(lanes);
  switch (type) {
    case DType::bf16: return storeAt(static_cast<BF16*>(p), i, x, count);
    case DType::f16: return storeAt(static_cast<F16*>(p), i, x, count);
    case DType::e4m3: return storeAt(static_cast<E4M3*>(p), i, x, count);
    case DType::e5m2: return storeAt(static_cast<E5M2*>(p), i, x, count);
    default: return storeAt(static_cast<float*>(p), i, x, count);
  }
}

template <class T> FP8_INLINE F32 loadAs(const void* p, DType type, int64_t i, int64_t count) {
  if constexpr (!isSame<T, Any>) return loadAt(static_cast<const T*>(p), i, count);
  float lanes[kLanes];
  if constexpr (isSame<T, Any>) loadAny(lanes, p, type, i, count);
  return load(lanes);
}

template <class T> FP8_INLINE void storeAs(void* p, DType type, int64_t i, F32 x, int64_t count) {
  if constexpr (!isSame<T, Any>) return storeAt(static_cast<T*>(p), i, x, count);
  float lanes[kLanes];
  store(lanes, x);
  if constexpr (isSame<T, Any>) storeAny(p, type, i, lanes, count);
}

template <class T> constexpr bool mayScale = isScaled<T> || isSame<T, Any>;

/// One of p, m, v: its values, and where the new ones go.
template <class T> struct StateView {
  const AdamWJob::State& s;
  F32 inv, scale;
  AmaxSink largest;
  I32 clamped = I32(0);
  FP8_INLINE explicit StateView(const AdamWJob::State& s_) : s(s_), inv(s_.inv), scale(s_.scale) {}
  FP8_INLINE F32 read(int64_t i, int64_t count) const {
    const F32 x = loadAs<T>(s.data, s.type, i, count);
    if constexpr (mayScale<T>) return x * inv;
    else return x;
  }
  FP8_INLINE F32 readUndo(int64_t i, int64_t count) const {
    const F32 x = loadAs<T>(s.undo, s.type, i, count);
    if constexpr (mayScale<T>) return x * inv;
    else return x;
  }
  FP8_INLINE void measure(F32 x, int64_t count) {
    if constexpr (mayScale<T>) largest.put(firstLanes(x, count));
  }
  FP8_INLINE void write(int64_t i, F32 x, int64_t count) {
    measure(x, count);
    if constexpr (mayScale<T>) x = x * scale;
    storeAs<T>(s.data, s.type, i, x, count);
  }
  FP8_INLINE void count(F32 x, int64_t lanes) {
    if (s.type >= DType::f16) clamped = clamped - (abs(firstLanes(x, lanes) * scale) > F32(maxOf(s.type)));
  }
  void keep(int64_t begin, int64_t end) const {
    const int64_t b = bytesOf(s.type);
    memcpy(static_cast<char*>(s.undo) + begin * b, static_cast<const char*>(s.data) + begin * b, size_t((end - begin) * b));
  }
};

constexpr int64_t kUndoBlock = 512;  // copied just before it is changed, while it is on its way to L1

enum class Form { update, apply, measure, moments, rewrite, counted };

/// W is Nowhere without a master.
template <class W, class P, class G, class M, class V, Form form>
AdamWStats adamwRange(const AdamWJob& job, int64_t begin, int64_t end) {
  StateView<P> p(job.p);
  StateView<M> m(job.m);
  StateView<V> v(job.v);
  const F32 gradInv(job.gradInv), masterInv(job.masterInv), wScale(job.wScale);
  for (int64_t start = begin; start < end; start += kUndoBlock) {
    const int64_t stop = start + kUndoBlock < end ? start + kUndoBlock : end;
    if (form == Form::update && job.p.undo) p.keep(start, stop), m.keep(start, stop), v.keep(start, stop);
    forVectors(start, stop, [&](int64_t i, int64_t count) FP8_LAMBDA {
      F32 g = loadAs<G>(job.grad, job.gradType, i, count);
      if constexpr (mayScale<G>) g = g * gradInv;
      if constexpr (form == Form::rewrite) {
        F32 m1 = m.readUndo(i, count), v1 = v.readUndo(i, count);
        math::adamwMoments(g, m1, v1, job.step);
        if (job.rewriteM) m.write(i, m1, count);
        if (job.rewriteV) v.write(i, v1, count);
        return;
      }
      F32 m1 = m.read(i, count), v1 = v.read(i, count);
      if constexpr (form == Form::moments) {
        math::adamwMoments(g, m1, v1, job.step);
        m.measure(m1, count), v.measure(v1, count);
      } else {
        const F32 p1 = math::adamwUpdate(p.read(i, count), g, m1, v1, job.step);
        if constexpr (form == Form::measure) {
          p.measure(p1, count), m.measure(m1, count), v.measure(v1, count);
        } else {
          if constexpr (form == Form::counted) p.count(p1, count), m.count(m1, count), v.count(v1, count);
          p.write(i, p1, count), m.write(i, m1, count), v.write(i, v1, count);
          if constexpr (!isSame<W, Nowhere>) {
            F32 stored = loadAs<P>(job.p.data, job.p.type, i, count);
            if constexpr (mayScale<P>) stored = stored * masterInv;
            if constexpr (mayScale<W>) stored = stored * wScale;
            storeAs<W>(job.w, job.wType, i, stored, count);
          }
        }
      }
    });
  }
  AdamWStats stats{uint32_t(maxLanes(p.largest.bits)), uint32_t(maxLanes(m.largest.bits)), uint32_t(maxLanes(v.largest.bits))};
  if constexpr (form == Form::counted)
    stats.clampedP = sumLanes(p.clamped), stats.clampedM = sumLanes(m.clamped), stats.clampedV = sumLanes(v.clamped);
  return stats;
}

template <class W, Form form> constexpr AdamWFn general = adamwRange<W, Any, Any, Any, Any, form>;

template <class W> constexpr AdamWForms generalForms = {general<W, Form::update>, general<W, Form::apply>, general<W, Form::measure>,
                                                        general<W, Form::moments>, general<W, Form::rewrite>, general<W, Form::measure>, general<W, Form::counted>};

/// Groups of 64 by the folded form, the rest by the general one.
template <class W, class P, class G, class M, class V, Folded folded, Form form>
AdamWStats mixedRange(const AdamWJob& job, int64_t begin, int64_t end) {
  const int64_t whole = begin + (end - begin) / kGroup * kGroup;
  AdamWStats stats = foldedRange<W, P, G, M, V, folded>(job, begin, whole);
  if (whole < end) stats.merge(general<AnyOr<W>, form>(job, whole, end));
  return stats;
}

template <class W, class P, class G, class M, class V> constexpr AdamWForms foldedForms() {
  AdamWForms forms = generalForms<AnyOr<W>>;
  if constexpr (isScaled<P>) forms.update = mixedRange<W, P, G, M, V, Folded::update, Form::update>;
  forms.apply = mixedRange<W, P, G, M, V, Folded::apply, Form::apply>;
  if constexpr (isScaled<P>) forms.rewrite = mixedRange<W, P, G, M, V, Folded::rewrite, Form::rewrite>;
  if constexpr (isScaled<P>) forms.measure = mixedRange<W, P, G, M, V, Folded::measure, Form::measure>;
  if constexpr (!isScaled<P>) forms.moments = mixedRange<W, P, G, M, V, Folded::moments, Form::moments>;
  return forms;
}

AdamWForms formsFor(const AdamWJob& j) {
  const auto is = [&](int w, DType p, DType g, DType m, DType v) {
    return (j.w ? int(j.wType) : -1) == w && j.p.type == p && j.gradType == g && j.m.type == m && j.v.type == v;
  };
  constexpr DType f32 = DType::f32, f16 = DType::f16, e4m3 = DType::e4m3;
  constexpr int none = -1, toBf16 = int(DType::bf16), toE4m3 = int(DType::e4m3);
  if (foldable(j)) {
    if (is(none, f32, f32, f32, f32)) return foldedForms<Nowhere, float, float, float, float>();
    if (is(toBf16, f32, f32, f32, f32)) return foldedForms<BF16, float, float, float, float>();
    if (is(none, f32, f32, e4m3, f16)) return foldedForms<Nowhere, float, float, E4M3, F16>();
    if (is(none, f16, e4m3, f32, f32)) return foldedForms<Nowhere, F16, E4M3, float, float>();
    if (is(none, f16, e4m3, e4m3, f16) && foldableInside(j)) return foldedForms<Nowhere, F16, E4M3, E4M3, F16>();
    if (is(toE4m3, f16, e4m3, e4m3, f16) && foldableInside(j)) return foldedForms<E4M3, F16, E4M3, E4M3, F16>();
  }
  return j.w ? generalForms<Any> : generalForms<Nowhere>;
}

double sumRange(const float* x, int64_t begin, int64_t end) {
  F64 a, b;
  int64_t i = begin;
  for (; i + 2 * kLanes <= end; i += 2 * kLanes) prefetch(x + i, 4096), prefetch(x + i, 4160), a = a + toDouble(load(x + i)), b = b + toDouble(load(x + i + kLanes));
  forVectors(i, end, [&](int64_t j, int64_t count) FP8_LAMBDA { a = a + toDouble(loadAt(x, j, count)); });
  return sumLanes(a + b);
}

/// Squares of stored values. Those of fp8 have at most 8 significant bits: sixteen of them are added in float32 first, with
/// an error of no consequence beside the float32 result. No overflow: the largest square is 57344^2.
template <class X> double sumSquaresRange(const void* x, int64_t begin, int64_t end) {
  const X* const in = static_cast<const X*>(x);
  F64 sum;
  NanWatch<X> nan;
  int64_t i = begin;
  if constexpr (sizeof(X) == 1) {
    for (; i + 4 * kGroup <= end; i += 4 * kGroup) {
      F32 part(0.0f);
      for (int g = 0; g < 4; g++) {
        prefetch(in + i + g * kGroup, 4096);
        Group y = loadGroup(in + i + g * kGroup, nan);
        for (int k = 0; k < 4; k++) y.v[k] = y.v[k] * y.v[k];
        part = part + ((y.v[0] + y.v[1]) + (y.v[2] + y.v[3]));
      }
      sum = sum + toDouble(part * F32(rawFactor<X> * rawFactor<X>));
    }
  }
  forVectors(i, end, [&](int64_t j, int64_t count) FP8_LAMBDA {
    prefetch(in + j, 4096);
    const F64 a = toDouble(loadAt(in, j, count));
    sum = sum + a * a;
  });
  return nan.seen() ? double(fp8lm::floatOf(0x7fc00000u)) : sumLanes(sum);
}

extern const AdamWTable optimizer = {
    formsFor,
    sumRange,
    {sumSquaresRange<float>, sumSquaresRange<BF16>, sumSquaresRange<F16>, sumSquaresRange<E4M3>, sumSquaresRange<E5M2>},
};

}  // namespace fp8lm::FP8_VEC
