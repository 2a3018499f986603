// AdamW for the dtypes of the recipes: many tensors a launch, 16-byte accesses, hardware conversions. See adamw.h.
//
// The calls are gathered (gathered.h); a block walks through chunks of all tensors of the list. Where the amax of a state is
// finite nothing can saturate, since its scale was chosen from that amax: such chunks count nothing. Chunks of a tensor with an
// infinite amax, tensors at odd addresses and ends of tensors are done value by value, and do count.
//
// Where the states and the gradient all have scales, those are folded into the step's constants (Folded): a third fewer
// instructions.
//
// One file, though long: measure, apply and the value-by-value way must agree in every rounding, and are read side by side.
#include <stdexcept>
#include <string>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "adamw.h"
#include "gathered.h"
#include "words.h"

namespace fp8lm {

namespace {

constexpr DType kNone = DType::i32;  // no weight beside p
constexpr int kChunk = 16384, kMostJobs = 160;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kFewRegisters = true;  // the folded step of sm_89 needs a register or two more
#else
constexpr bool kFewRegisters = false;
#endif

/// Dtypes of one kernel, and how many neighbours a thread takes at once: 16 bytes of the narrowest dtype.
template <DType P_, DType M_, DType V_, DType G_, DType W_ = kNone> struct Formats {
  static constexpr DType P = P_, M = M_, V = V_, G = G_, W = W_;
  static constexpr bool hasW = W != kNone, scaledW = isScaled<W>;
  static constexpr bool needsP = isScaled<P> || scaledW, needsM = isScaled<M>, needsV = isScaled<V>, measures = needsP || needsM || needsV;
  static constexpr bool foldable = isScaled<P> && isScaled<M> && isScaled<V> && isScaled<G>;
  static constexpr int narrowest = [] {
    int bytes = 4;
    for (const DType t : {P, M, V, G, hasW ? W : P}) bytes = int(bytesOf(t)) < bytes ? int(bytesOf(t)) : bytes;
    return bytes;
  }();
  static constexpr int group = 16 / narrowest;
  /// Words that a thread holds of its neighbours, and so the blocks that a multiprocessor takes without spilling.
  static constexpr int held = group * int(bytesOf(P) + bytesOf(M) + bytesOf(V) + bytesOf(G)) / 4;
  static constexpr int blocks = held <= 24 && !(foldable && kFewRegisters) ? 3 : 2;
  using CodeW = Code<hasW ? W : P>;

  static bool match(const AdamWCall& c) {
    const Tensor& p = c.master ? c.master : c.w;
    return p.dtype == P && c.m.dtype == M && c.v.dtype == V && c.grad.dtype == G && bool(c.master) == hasW && (!hasW || c.w.dtype == W);
  }
};

template <class F> struct Job {
  Ptr<Code<F::P>> p;
  Ptr<Code<F::M>> m;
  Ptr<Code<F::V>> v;
  Ptr<const Code<F::G>> grad;
  Ptr<typename F::CodeW> w;
  Ptr<float> blockP, blockM, blockV, blockW;
  Ptr<const float> blockG;
  Ptr<float> amaxes;  // of a shard: written in phase 1, read in phase 2
  int64_t n;
  float decay;
  int phase;
  bool aligned;
};

template <class F> struct List : JobList<Job<F>, kMostJobs> {
  Ptr<const float> control;
  Ptr<unsigned> words;  // kWords a job
  Hyper hyper;
};

/// What a block knows of the tensor whose chunks it does.
struct Live {
  float invP = 1.0f, invM = 1.0f, invV = 1.0f, invG = 1.0f;
  float scaleP = 1.0f, scaleM = 1.0f, scaleV = 1.0f, scaleW = 1.0f, newP = 1.0f;
  bool counts = false;   // an amax is infinite, so values may saturate
  bool writesW = false;  // not where p's amax is infinite: castWeightKernel does that
};

/// In shared memory, so that no register holds it where it is folded.
struct Entered {
  Live live;
  math::AdamWStep step;
};

template <DType D> constexpr float kLargest = maxOf(D);

template <DType D> __device__ __forceinline__ float unscale(float x, float inv) {
  if constexpr (isScaled<D>) return math::mul(x, inv);
  else return x;
}

/// The value that a code stands for once x is stored at a scale.
template <DType D> __device__ __forceinline__ float storedForm(float x, float scale, float inv) {
  return unscale<D>(Form<D>::decode(Form<D>::encode(isScaled<D> ? math::mul(x, scale) : x)), inv);
}

template <DType D> __device__ __forceinline__ float scaleOf(Ptr<const float> block, unsigned bits, bool& counts) {
  if constexpr (!isScaled<D>) return 1.0f;
  if (!isFinite(bits)) counts = true;
  return scaleFor(amaxOf(bits), kLargest<D>, previousScale(block[kScale]));
}

template <class F> __device__ __forceinline__ unsigned amaxBits(const List<F>& list, int k, int slot) {
  return list.job[k].phase == 2 ? magnitude(list.job[k].amaxes[slot]) : unsigned(list.words[k * kWords + kMeasured + slot]);
}

template <class F, bool apply> __device__ __forceinline__ Live enter(const List<F>& list, int k) {
  const Job<F>& j = list.job[k];
  Live a;
  if constexpr (isScaled<F::P>) a.invP = j.blockP[kScaleInv];
  if constexpr (isScaled<F::M>) a.invM = j.blockM[kScaleInv];
  if constexpr (isScaled<F::V>) a.invV = j.blockV[kScaleInv];
  if constexpr (isScaled<F::G>) a.invG = j.blockG ? float(j.blockG[kScaleInv]) : 1.0f;
  if constexpr (apply) {
    const unsigned bitsP = F::needsP ? amaxBits(list, k, kP) : 0u;
    if constexpr (isScaled<F::P>) a.newP = math::div(1.0f, a.scaleP = scaleOf<F::P>(j.blockP, bitsP, a.counts));
    if constexpr (isScaled<F::M>) a.scaleM = scaleOf<F::M>(j.blockM, amaxBits(list, k, kM), a.counts);
    if constexpr (isScaled<F::V>) a.scaleV = scaleOf<F::V>(j.blockV, amaxBits(list, k, kV), a.counts);
    if constexpr (F::hasW) {
      a.writesW = !F::scaledW || isFinite(bitsP);
      if constexpr (F::scaledW)
        if (a.writesW) a.scaleW = scaleFor(storedForm<F::P>(amaxOf(bitsP), a.scaleP, a.newP), kLargest<F::W>, previousScale(j.blockW[kScale]));
    }
  }
  return a;
}

constexpr float powerOfTwo(int n) { return n == 0 ? 1.0f : n > 0 ? 2.0f * powerOfTwo(n - 1) : 0.5f * powerOfTwo(n + 1); }
template <int N> constexpr float kPow2 = powerOfTwo(N);
template <int low, int high> __device__ __forceinline__ bool isWithin(float x) { return x >= kPow2<low> && x <= kPow2<high>; }
/// Of a positive normal number.
__device__ __forceinline__ bool isPowerOfTwo(float x) { return (bitsOf(x) & 0x7fffffu) == 0u; }

/// The constants of a step with the scales of one tensor in them. What scaleFor has chosen is a power of two, and a product with one
/// of those is exact: wherever it is done, the bits are the same. So codes become new values with a product fewer each,
/// and come out times their new scales, as they are stored (in the measuring pass those are 1). The gradient's factor is no
/// power of two (mu), so both of its products stay.
///
/// This holds for such scales, as long as nothing leaves the normal range, either way. `holds` says so, with room: a new m is then 0 or at least
/// 2^-57 of the largest code (products of codes from 2^-9 on with at least 2^-8 and 2^-16; the last bit of their difference), and
/// neither the square of a gradient nor step m / (sqrt(v) c + eps) becomes subnormal.
struct Folded {
  float g = 1.0f, clip = 1.0f, m = 0.0f, mg = 0.0f, v = 0.0f, vg = 0.0f, p = 0.0f, root = 0.0f, c = 0.0f, eps = 0.0f, step = 0.0f, w = 0.0f;
  bool holds = false;
};
/// Roots are taken of v 2^86 + 2^-70: far from both ends of the range, and never 0. What that adds is below half a bit of eps.
constexpr int kRaised = 86;
constexpr float kFloor = kPow2<-70>;

template <bool apply> __device__ __forceinline__ Folded fold(const Live& a, const math::AdamWStep& s) {
  Folded f;
  f.g = a.invG, f.clip = s.clip;
  f.m = math::mul(s.beta1, math::mul(a.invM, a.scaleM)), f.mg = math::mul(s.oneMinusBeta1, a.scaleM);
  f.v = math::mul(s.beta2, math::mul(a.invV, a.scaleV)), f.vg = math::mul(s.oneMinusBeta2, a.scaleV);
  f.p = math::mul(s.decay, math::mul(a.invP, a.scaleP));
  f.root = math::div(kPow2<kRaised>, a.scaleV);
  f.c = apply ? math::mul(s.rootCorrection2, kPow2<-kRaised / 2>) : s.rootCorrection2, f.eps = s.eps;
  f.step = math::mul(s.step, math::div(a.scaleP, a.scaleM));
  f.w = math::mul(a.newP, a.scaleW);
  const float gradient = math::mul(a.invG, s.clip);
  f.holds = isWithin<-4, 0>(s.beta1) && isWithin<-4, 0>(s.beta2) && isWithin<-8, 0>(s.oneMinusBeta1) && isWithin<-12, 0>(s.oneMinusBeta2) &&
            isWithin<-1, 0>(s.decay) && isWithin<-60, 60>(a.invM) && isWithin<-100, 20>(a.invV) && isWithin<-60, 60>(a.invP) &&
            isWithin<-48, 40>(gradient) && isPowerOfTwo(a.invM) && isPowerOfTwo(a.invV) && isPowerOfTwo(a.invP);
  if constexpr (apply) {
    f.holds = f.holds && isWithin<-40, 40>(a.scaleM) && isWithin<-4, 100>(a.scaleV) && isWithin<-60, 60>(a.scaleP) &&
              isWithin<-8, 100>(math::mul(a.invM, a.scaleM)) && isWithin<-16, 100>(math::mul(gradient, a.scaleM)) &&
              isWithin<-60, 120>(math::mul(a.invV, a.scaleV)) && isWithin<-20, 20>(math::mul(a.invP, a.scaleP)) && isWithin<-60, 60>(f.w) &&
              isPowerOfTwo(a.scaleM) && isPowerOfTwo(a.scaleV) && isPowerOfTwo(a.scaleP) && isPowerOfTwo(f.w) &&
              isWithin<-30, 0>(s.eps) && isWithin<0, 10>(s.rootCorrection2) && (s.step == 0.0f || isWithin<-24, 4>(s.step));
  }
  return f;
}

/// What new values are made of, of four elements: m and v times their new scales, and the p before times its own.
template <class F> struct FoldedStates {
  float m[4], v[4], p[4];
  __device__ __forceinline__ FoldedStates(const Folded& f, const float (&gCode)[4], const float (&mCode)[4], const float (&vCode)[4], const float (&pCode)[4]) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float g = math::mul(math::mul(gCode[e], f.g), f.clip);
      m[e] = math::add(math::mul(f.m, mCode[e]), math::mul(f.mg, g));
      v[e] = math::add(math::mul(f.v, vCode[e]), math::mul(f.vg, math::mul(g, g)));
      p[e] = math::mul(f.p, pCode[e]);
    }
  }
};

/// Amaxes of the new values that a thread has seen, as floats; NaN once one was.
struct Largest {
  float p = 0.0f, m = 0.0f, v = 0.0f;
};

constexpr float kMargin = 1.001f;

/// The new p where it may be larger than all seen so far: the update is nearly |p| decay + step |m| / (sqrt(v) c + eps), and what
/// stays below by more than the error of that need not be known exactly.
template <class F> __device__ __forceinline__ void measureOne(float p, float g, float m, float v, const math::AdamWStep& step, Largest& seen) {
  math::adamwMoments(g, m, v, step);
  if constexpr (F::needsM) seen.m = maxMagnitude(seen.m, m);
  if constexpr (F::needsV) seen.v = maxMagnitude(seen.v, v);
  if constexpr (F::needsP) {
    const float u = fabsf(m) * nearlyRecip(math::mulAdd(nearlySqrt(v), step.rootCorrection2, step.eps));
    const float bound = math::mulAdd(step.step, u, fabsf(math::mul(p, step.decay))) * kMargin;
    if (!(bound <= seen.p)) {
      const float exact = math::div(m, math::add(math::mul(math::sqrt(v), step.rootCorrection2), step.eps));
      seen.p = maxMagnitude(seen.p, math::sub(math::mul(p, step.decay), math::mul(step.step, exact)));
    }
  }
}

/// The states and the gradient of neighbours, as stored.
template <class F> struct Neighbours {
  Pack<F::P, F::group> p;
  Pack<F::M, F::group> m;
  Pack<F::V, F::group> v;
  Pack<F::G, F::group> g;
  template <bool apply> __device__ __forceinline__ void load(const Job<F>& j, int64_t i) {
    g.load(j.grad, i);
    m.load(j.m, i);
    if constexpr (apply || F::needsV || F::needsP) v.load(j.v, i);
    if constexpr (apply || F::needsP) p.load(j.p, i);
  }
};

template <class F> __device__ __forceinline__ void measureGroup(const Job<F>& j, int64_t i, const Shared<Entered>& entered, const Folded& f, Largest& seen) {
  Neighbours<F> n;
  n.template load<false>(j, i);
#pragma unroll
  for (int q = 0; q < F::group / 4; q++) {
    float pv[4] = {}, mv[4], vv[4] = {}, gv[4];
    n.g.decode(q, gv);
    n.m.decode(q, mv);
    if constexpr (F::needsV || F::needsP) n.v.decode(q, vv);
    if constexpr (F::needsP) n.p.decode(q, pv);
    if constexpr (F::foldable) {
      const FoldedStates<F> s(f, gv, mv, vv, pv);
      float most = 0.0f;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        seen.m = maxMagnitude(seen.m, s.m[e]);
        seen.v = maxMagnitude(seen.v, s.v[e]);
        const float u = fabsf(s.m[e]) * nearlyRecip(math::mulAdd(nearlySqrt(s.v[e]), f.c, f.eps));
        most = maxMagnitude(most, math::mulAdd(f.step, u, fabsf(s.p[e])));
      }
      if (most * kMargin <= seen.p) continue;
    }
    const auto [a, step] = Entered(entered[0]);
#pragma unroll
    for (int e = 0; e < 4; e++)
      measureOne<F>(unscale<F::P>(pv[e], a.invP), unscale<F::G>(gv[e], a.invG), unscale<F::M>(mv[e], a.invM), unscale<F::V>(vv[e], a.invV), step, seen);
  }
}

template <class F> __device__ __forceinline__ void applyGroup(const Job<F>& j, int64_t i, const Shared<Entered>& entered, const Folded& f) {
  Neighbours<F> n;
  n.template load<true>(j, i);
  Pack<F::hasW ? F::W : F::P, F::group> w;
#pragma unroll
  for (int q = 0; q < F::group / 4; q++) {
    float pv[4], mv[4], vv[4], gv[4];
    n.g.decode(q, gv);
    n.m.decode(q, mv);
    n.v.decode(q, vv);
    n.p.decode(q, pv);
    if constexpr (F::foldable) {
      const FoldedStates<F> s(f, gv, mv, vv, pv);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float root = sqrtInRange(fusedMulAdd(s.v[e], f.root, kFloor));
        const float u = divInRange(s.m[e], math::add(math::mul(root, f.c), f.eps));
        mv[e] = s.m[e], vv[e] = s.v[e], pv[e] = math::sub(s.p[e], math::mul(f.step, u));
      }
    } else {
      const auto [a, step] = Entered(entered[0]);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float newM = unscale<F::M>(mv[e], a.invM), newV = unscale<F::V>(vv[e], a.invV);
        const float newP = math::adamwUpdate(unscale<F::P>(pv[e], a.invP), unscale<F::G>(gv[e], a.invG), newM, newV, step);
        pv[e] = unscale<F::P>(newP, a.scaleP);
        mv[e] = unscale<F::M>(newM, a.scaleM);
        vv[e] = unscale<F::V>(newV, a.scaleV);
      }
    }
    n.p.encode(q, pv);
    n.m.encode(q, mv);
    n.v.encode(q, vv);
    if constexpr (F::hasW) {
      static_assert(F::foldable || !(isScaled<F::P> || F::scaledW), "a scale of the weight or its master is folded");
      n.p.decode(q, pv);
      if constexpr (F::foldable) {
#pragma unroll
        for (int e = 0; e < 4; e++) pv[e] = math::mul(pv[e], f.w);
      }
      w.encode(q, pv);
    }
  }
  n.p.store(j.p, i);
  n.m.store(j.m, i);
  n.v.store(j.v, i);
  if constexpr (F::hasW) w.store(j.w, i);
}

template <DType D> __device__ __forceinline__ Code<D> encodeCounted(float x, float scale, unsigned& saturated) {
  if constexpr (isScaled<D>) {
    x = math::mul(x, scale);
    saturated += fabsf(x) > kLargest<D> ? 1u : 0u;
  }
  return Form<D>::encode(x);
}

/// Value by value, from `begin` on in steps of `step`.
template <class F, bool apply> __device__ __forceinline__ void oneByOne(const List<F>& list, int k, int64_t begin, int64_t end, int stride, const Shared<Entered>& entered, Largest& seen) {
  const Job<F>& j = list.job[k];
  const auto [a, step] = Entered(entered[0]);
  unsigned clampedP = 0, clampedM = 0, clampedV = 0;
  for (int64_t i = begin; i < end; i += stride) {
    float m = unscale<F::M>(Form<F::M>::decode(j.m[i]), a.invM), v = unscale<F::V>(Form<F::V>::decode(j.v[i]), a.invV);
    const float g = unscale<F::G>(Form<F::G>::decode(j.grad[i]), a.invG), old = unscale<F::P>(Form<F::P>::decode(j.p[i]), a.invP);
    if constexpr (!apply) {
      measureOne<F>(old, g, m, v, step, seen);
    } else {
      const float p = math::adamwUpdate(old, g, m, v, step);
      const Code<F::P> code = encodeCounted<F::P>(p, a.scaleP, clampedP);
      j.p[i] = code;
      j.m[i] = encodeCounted<F::M>(m, a.scaleM, clampedM);
      j.v[i] = encodeCounted<F::V>(v, a.scaleV, clampedV);
      if constexpr (F::hasW) {
        unsigned none = 0;
        if (a.writesW) j.w[i] = encodeCounted<F::W>(unscale<F::P>(Form<F::P>::decode(code), a.newP), a.scaleW, none);
      }
    }
  }
  if constexpr (apply) {
    const Ptr<unsigned> words = list.words + k * kWords;
    if (clampedP) atomicAddAt(words, kSaturatedWord + kP, clampedP);
    if (clampedM) atomicAddAt(words, kSaturatedWord + kM, clampedM);
    if (clampedV) atomicAddAt(words, kSaturatedWord + kV, clampedV);
  }
}

/// @param valueByValue nothing else will do
template <class F, bool apply>
__device__ __forceinline__ void doChunk(const List<F>& list, int k, int64_t begin, bool valueByValue, const Shared<Entered>& entered, const Folded& f, Largest& seen) {
  const Job<F>& j = list.job[k];
  const int64_t end = begin + kChunk < j.n ? begin + kChunk : j.n;
  if (!j.aligned || valueByValue) return oneByOne<F, apply>(list, k, begin + threadIdx.x, end, kThreads, entered, seen);
  constexpr int perRound = kThreads * F::group;
  for (int64_t base = begin; base < end; base += perRound) {
    const int64_t i = base + int64_t(threadIdx.x) * F::group;
    if constexpr (!apply && F::needsP) seen.p = floatOf(warpMax(magnitude(seen.p)));  // so that few values need the exact p
    if (i + F::group <= end) {
      if constexpr (apply) applyGroup(j, i, entered, f);
      else measureGroup(j, i, entered, f, seen);
    } else {
      oneByOne<F, apply>(list, k, i, end, 1, entered, seen);
    }
  }
}

/// After the last chunk of a tensor that this block does.
template <class F> __device__ __forceinline__ void leaveMeasured(const List<F>& list, int k, unsigned done, const Largest& seen) {
  const Job<F>& j = list.job[k];
  const Ptr<unsigned> words = list.words + k * kWords;
  const float largest[3] = {seen.p, seen.m, seen.v};
  constexpr bool needed[3] = {F::needsP, F::needsM, F::needsV};
#pragma unroll
  for (int slot = kP; slot <= kV; slot++) {
    if (!needed[slot]) continue;
    const unsigned bits = blockReduce<Reduce::max>(magnitude(largest[slot]));
    if (threadIdx.x == 0) atomicMaxAt(words, kMeasured + slot, bits);
  }
  if (j.phase != 1 || !lastOfJob(words + kTicket, done, unsigned(list.firstChunk[k + 1] - list.firstChunk[k])) || threadIdx.x > 0) return;
#pragma unroll
  for (int slot = kP; slot <= kV; slot++) {
    j.amaxes[slot] = needed[slot] ? amaxOf(fromOtherBlocks(words, kMeasured + slot)) : 0.0f;
    words[kMeasured + slot] = 0u;
  }
}

__device__ __forceinline__ void writeBlock(Ptr<float> block, float scale, float amax, unsigned saturated) {
  block[kScale] = scale;
  block[kScaleInv] = math::div(1.0f, scale);
  block[kAmax] = amax;
  block[kSaturated] = float(saturated);
}

template <class F> __device__ __forceinline__ void leaveApplied(const List<F>& list, int k, unsigned done, const Live& a) {
  const Job<F>& j = list.job[k];
  const Ptr<unsigned> words = list.words + k * kWords;
  if (!lastOfJob(words + kTicket, done, unsigned(list.firstChunk[k + 1] - list.firstChunk[k])) || threadIdx.x > 0) return;
  const auto saturated = [&](int slot) { return fromOtherBlocks(words, kSaturatedWord + slot); };
  const float amaxP = F::needsP ? amaxOf(amaxBits(list, k, kP)) : 0.0f;
  if constexpr (F::scaledW)
    if (a.writesW) writeBlock(j.blockW, a.scaleW, storedForm<F::P>(amaxP, a.scaleP, a.newP), 0u);
  if constexpr (isScaled<F::P>) writeBlock(j.blockP, a.scaleP, amaxP, saturated(kP));
  if constexpr (isScaled<F::M>) writeBlock(j.blockM, a.scaleM, amaxOf(amaxBits(list, k, kM)), saturated(kM));
  if constexpr (isScaled<F::V>) writeBlock(j.blockV, a.scaleV, amaxOf(amaxBits(list, k, kV)), saturated(kV));
  for (int slot = kP; slot <= kV; slot++) words[kMeasured + slot] = words[kSaturatedWord + slot] = 0u;
  // Left for castWeightKernel: whether the weight is still to be written.
  if constexpr (F::scaledW) words[kMeasured + kW] = a.writesW ? 0u : 1u;
}

template <class F, bool apply> __global__ void __launch_bounds__(kThreads, F::blocks) adamwKernel(const __grid_constant__ List<F> list) {
  beginKernel();
  if (list.control[kSkip] != 0.0f) return;
  FP8_SHARED(Entered, entered, 1);
  Largest seen;
  Folded folded;
  bool valueByValue = false;
  int present = -1;
  unsigned done = 0;
  // Neighbouring chunks, so that a block enters few tensors: that costs it an answer of the memory and two barriers.
  const int64_t chunks = list.chunks();
  const int end = int(chunks * (blockIdx.x + 1) / gridDim.x);
  for (int chunk = int(chunks * blockIdx.x / gridDim.x);; chunk++) {
    const int k = chunk < end ? list.jobOf(chunk) : -1;
    if (k != present) {
      if (present >= 0) {
        if constexpr (apply) leaveApplied(list, present, done, Entered(entered[0]).live);
        else leaveMeasured(list, present, done, seen);
      }
      if (k < 0) return;
      __syncthreads();
      if (threadIdx.x == 0) {
        math::AdamWStep step = present < 0 ? stepOf(list.hyper, list.control) : Entered(entered[0]).step;
        step.decay = list.job[k].decay;
        entered[0] = Entered{enter<F, apply>(list, k), step};
      }
      __syncthreads();
      const auto [live, step] = Entered(entered[0]);
      if constexpr (F::foldable) folded = fold<apply>(live, step);
      valueByValue = live.counts || (F::hasW && apply && !live.writesW) || (F::foldable && !folded.holds);
      present = k;
      seen = Largest();
      done = 0;
    }
    doChunk<F, apply>(list, k, int64_t(chunk - list.firstChunk[k]) * kChunk, valueByValue, entered, folded, seen);
    done++;
  }
}

/// The weight beside a master whose amax is not finite: measured, then cast, a block a tensor. Not met in training, where a
/// gradient norm that is not finite skips the step.
template <class F> __global__ void __launch_bounds__(kThreads, 2) castWeightKernel(const __grid_constant__ List<F> list) {
  beginKernel();
  const Job<F>& j = list.job[blockIdx.x];
  const Ptr<unsigned> words = list.words + int(blockIdx.x) * kWords;
  if (words[kMeasured + kW] == 0u) return;
  const float inv = isScaled<F::P> ? float(j.blockP[kScaleInv]) : 1.0f;
  const auto master = [&](int64_t i) { return unscale<F::P>(Form<F::P>::decode(j.p[i]), inv); };
  float largest = 0.0f;
  for (int64_t i = threadIdx.x; i < j.n; i += blockDim.x) largest = maxMagnitude(largest, master(i));
  const float amax = amaxOf(blockReduce<Reduce::max>(magnitude(largest)));
  const float scale = scaleFor(amax, kLargest<F::W>, previousScale(j.blockW[kScale]));
  unsigned saturated = 0;
  for (int64_t i = threadIdx.x; i < j.n; i += blockDim.x) j.w[i] = encodeCounted<F::W>(master(i), scale, saturated);
  saturated = blockReduce<Reduce::sum>(saturated);
  if (threadIdx.x > 0) return;
  words[kMeasured + kW] = 0u;
  writeBlock(j.blockW, scale, amax, saturated);
}

// --- the calls ---------------------------------------------------------------------------------------------------------------

Ptr<unsigned> jobWords() {
  constexpr int64_t count = int64_t(kMostJobs) * kWords;
  static void* const data = zeroedMemory(count * sizeof(unsigned));
  return rawPtr<unsigned>(data, count, "words of optimizer jobs");
}

void send();
CallList<AdamWCall>& list() {
  static auto* l = new CallList<AdamWCall>(send);
  return *l;
}

template <class F> Job<F> jobOf(const AdamWCall& c) {
  const Tensor& p = c.master ? c.master : c.w;
  Job<F> j;
  j.p = ptr<Code<F::P>>(p, c.master ? "master" : "w");
  j.m = ptr<Code<F::M>>(c.m, "m");
  j.v = ptr<Code<F::V>>(c.v, "v");
  j.grad = ptr<const Code<F::G>>(c.grad, "grad");
  j.w = F::hasW ? ptr<typename F::CodeW>(c.w, "w") : Ptr<typename F::CodeW>();
  j.blockP = scalePtr(p, "p's scale block");
  j.blockM = scalePtr(c.m, "m's scale block");
  j.blockV = scalePtr(c.v, "v's scale block");
  j.blockW = F::hasW ? scalePtr(c.w, "w's scale block") : Ptr<float>();
  j.blockG = scalePtr(c.grad, "grad's scale block");
  j.amaxes = ptr<float>(c.amaxes, "amaxes");
  j.n = c.n;
  j.decay = float(1.0 - c.hyper.lr * c.hyper.weightDecay);
  j.phase = c.phase;
  j.aligned = isAligned(p) && isAligned(c.m) && isAligned(c.v) && isAligned(c.grad) && (!F::hasW || isAligned(c.w));
  return j;
}

template <class F> void sendList(const List<F>& list, int phase) {
  const auto send = [&](auto kernel) { launch("adamw", kernel, dim3(blocksOf(kernel, list.chunks(), 1, kThreads)), dim3(kThreads), list); };
  if (phase == 1 || (phase == 0 && F::measures)) send(&adamwKernel<F, false>);
  if (phase == 1) return;
  send(&adamwKernel<F, true>);
  if constexpr (F::scaledW) launch("adamw", castWeightKernel<F>, dim3(unsigned(list.count)), dim3(kThreads), list);
}

/// All calls of these dtypes.
template <class F> void sendFormats() {
  static auto* const jobs = new List<F>;
  const auto& all = list().calls;
  jobs->count = 0;
  for (const AdamWCall& c : all) {
    if (!F::match(c)) continue;
    if (jobs->count == List<F>::kMost) sendList(*jobs, c.phase), jobs->count = 0;
    jobs->control = ptr<const float>(c.control, "control");
    jobs->words = jobWords();
    jobs->hyper = c.hyper;
    jobs->add(jobOf<F>(c), c.n > kChunk ? (c.n + kChunk - 1) / kChunk : 1);
  }
  if (jobs->count) sendList(*jobs, all[0].phase);
}

using D = DType;
using Fp32 = Formats<D::f32, D::f32, D::f32, D::f32>;
using Mixed = Formats<D::f32, D::f32, D::f32, D::f32, D::bf16>;
using O1 = Formats<D::f16, D::f32, D::f32, D::e4m3>;
using O2 = Formats<D::f16, D::e4m3, D::f16, D::e4m3>;
using O2Embedding = Formats<D::f32, D::e4m3, D::f16, D::f32>;
using O3 = Formats<D::f16, D::e4m3, D::f16, D::e4m3, D::e4m3>;

template <class... F> struct Of_ {
  static bool match(const AdamWCall& c) { return (F::match(c) || ...); }
  static void send() { (sendFormats<F>(), ...); }
};
using Recipes = Of_<Fp32, Mixed, O1, O2, O2Embedding, O3>;

void send() {
  Recipes::send();
  list().clear();
}

bool goesWith(const AdamWCall& a, const AdamWCall& b) {
  const Hyper &h = a.hyper, &i = b.hyper;
  return a.phase == b.phase && a.control.data == b.control.data && h.lr == i.lr && h.beta1 == i.beta1 && h.beta2 == i.beta2 && h.eps == i.eps;
}

}  // namespace

void adamw(const Tensor& w, const Tensor& master, const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& control, const Tensor& amaxes, int64_t n, int64_t phase, double lr, double beta1, double beta2, double eps, double weight_decay) {
  if (phase > 2) throw std::invalid_argument("phase is " + std::to_string(phase) + "; expected 0, 1 or 2");
  if (phase > 0 && !amaxes) throw std::invalid_argument("phase " + std::to_string(phase) + " needs amaxes; expected f32 [3]");
  const AdamWCall call{w, master, grad, m, v, control, amaxes, n, int(phase), {lr, beta1, beta2, eps, weight_decay}};
  if (!Recipes::match(call)) return adamwAny(call);
  jobWords();
  const bool stores = phase != 1;
  const std::lock_guard<std::recursive_mutex> lock(gatherMutex());
  const auto& before = list().calls;
  list().add(call, {{w, stores}, {master, stores}, {m, stores}, {v, stores}, {amaxes, phase == 1}, {grad, false}, {control, false}},
             !before.empty() && !goesWith(call, before[0]));
}

}  // namespace fp8lm
