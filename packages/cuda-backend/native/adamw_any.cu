// AdamW for any dtypes, known only when it runs: those that no recipe has.
#include "adamw.h"

namespace fp8lm {

namespace {

/// A state tensor with one or no scale block, its dtype known when compiled, or not (`any`).
struct AnyState {
  Ptr<float> f32;
  Ptr<uint16_t> half;
  Ptr<uint8_t> byte;
  ScaleJob job;
  DType dtype = DType::f32;
  bool present = false, scaled = false;

  AnyState() = default;
  AnyState(const Tensor& t, const char* name, int slot) : dtype(t.dtype), present(bool(t)), scaled(isScaledType(t.dtype)) {
    if (!present) return;
    if (dtype == DType::f32) f32 = ptr<float>(t, name);
    else if (bytesOf(dtype) == 2) half = ptr<uint16_t>(t, name);
    else byte = ptr<uint8_t>(t, name);
    job = scaleJob(t);
    job.slot = slot;
  }
  __device__ __forceinline__ float inv() const { return scaled ? float(job.block[kScaleInv]) : 1.0f; }
  __device__ __forceinline__ float load(int64_t i, float inv) const {
    switch (dtype) {
      case DType::f32: return f32[i];
      case DType::bf16: return decodeBF16(half[i]);
      case DType::f16: return math::mul(decodeF16(half[i]), inv);
      case DType::e4m3: return math::mul(decodeE4M3(byte[i]), inv);
      default: return math::mul(decodeE5M2(byte[i]), inv);
    }
  }
  /// Stores x at a scale; returns the value as stored.
  __device__ __forceinline__ float store(int64_t i, float x, float scale, float newInv, Seen& seen) const {
    const float t = scaled ? math::mul(x, scale) : x;
    if (scaled) seen.add(x, t, job.max);
    switch (dtype) {
      case DType::f32: f32[i] = t; return t;
      case DType::bf16: { const uint16_t c = encodeBF16(t); half[i] = c; return decodeBF16(c); }
      case DType::f16: { const uint16_t c = encodeF16(t, true); half[i] = c; return math::mul(decodeF16(c), newInv); }
      case DType::e4m3: { const uint8_t c = encodeE4M3(t); byte[i] = c; return math::mul(decodeE4M3(c), newInv); }
      default: { const uint8_t c = encodeE5M2(t); byte[i] = c; return math::mul(decodeE5M2(c), newInv); }
    }
  }
  /// The stored form of one value, for the amax of the weight beside a master.
  __device__ __forceinline__ float stored(float x, float scale, float newInv) const {
    const float t = scaled ? math::mul(x, scale) : x;
    switch (dtype) {
      case DType::f32: return t;
      case DType::bf16: return decodeBF16(encodeBF16(t));
      case DType::f16: return math::mul(decodeF16(encodeF16(t, true)), newInv);
      case DType::e4m3: return math::mul(decodeE4M3(encodeE4M3(t)), newInv);
      default: return math::mul(decodeE5M2(encodeE5M2(t)), newInv);
    }
  }
};

struct Job {
  AnyState p, m, v, w;  // p: the master, or the weight where there is none; w: the weight beside a master
  AnyInput grad;
  Ptr<const float> control;
  Ptr<float> amaxes;  // of a shard: written in phase 1, read in phase 2
  int64_t n;
  int phase;
  Hyper hyper;
};

template <bool apply> __global__ void __launch_bounds__(kThreads, 3) adamwKernel(Job j) {
  beginKernel();
  if (j.control[2] != 0.0f) return;
  FP8_SHARED(math::AdamWStep, stepOfBlock, 1);
  if (threadIdx.x == 0) stepOfBlock[0] = stepOf(j.hyper, j.control);
  __syncthreads();
  const math::AdamWStep step = stepOfBlock[0];
  const float invP = j.p.inv(), invM = j.m.inv(), invV = j.v.inv(), invG = j.grad.inv();
  float scaleP = 1.0f, scaleM = 1.0f, scaleV = 1.0f, scaleW = 1.0f, newP = 1.0f, newM = 1.0f, newV = 1.0f, newW = 1.0f;
  bool writesW = false;
  if constexpr (apply) {
    if (j.p.scaled) newP = math::div(1.0f, scaleP = chooseScale(j.p.job));
    if (j.m.scaled) newM = math::div(1.0f, scaleM = chooseScale(j.m.job));
    if (j.v.scaled) newV = math::div(1.0f, scaleV = chooseScale(j.v.job));
    const unsigned bits = j.phase == 2 ? magnitude(j.amaxes[0]) : unsigned(j.p.job.words[kMeasured + kP]);
    // An infinite amax is clamped where it is stored, so the weight's scale must be measured: quantize does, after this.
    writesW = j.w.present && (!j.w.scaled || isFinite(bits));
    if (writesW && j.w.scaled) newW = math::div(1.0f, scaleW = scaleFor(j.p.stored(amaxOf(bits), scaleP, newP), j.w.job.max, previousScale(j.w.job.block[kScale])));
  }
  Seen seenP, seenM, seenV, seenW;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < j.n; i += stride) {
    float m = j.m.load(i, invM), v = j.v.load(i, invV);
    const float p = math::adamwUpdate(j.p.load(i, invP), j.grad.value(i, invG), m, v, step);
    if constexpr (apply) {
      const float stored = j.p.store(i, p, scaleP, newP, seenP);
      j.m.store(i, m, scaleM, newM, seenM);
      j.v.store(i, v, scaleV, newV, seenV);
      if (writesW) j.w.store(i, stored, scaleW, newW, seenW);
    } else {
      seenP.add(p, 0.0f, 1.0f);
      seenM.add(m, 0.0f, 1.0f);
      seenV.add(v, 0.0f, 1.0f);
    }
  }
  if constexpr (!apply) {
    const unsigned p = blockReduce<Reduce::max>(seenP.largest), m = blockReduce<Reduce::max>(seenM.largest), v = blockReduce<Reduce::max>(seenV.largest);
    const Ptr<unsigned> words = j.p.job.words;
    if (threadIdx.x == 0) {
      atomicMaxAt(words, kMeasured + kP, p);
      atomicMaxAt(words, kMeasured + kM, m);
      atomicMaxAt(words, kMeasured + kV, v);
    }
    if (j.phase != 1 || !lastBlock(words + kTicket) || threadIdx.x > 0) return;
    j.amaxes[0] = j.p.scaled || j.w.scaled ? amaxOf(fromOtherBlocks(words, kMeasured + kP)) : 0.0f;
    j.amaxes[1] = j.m.scaled ? amaxOf(fromOtherBlocks(words, kMeasured + kM)) : 0.0f;
    j.amaxes[2] = j.v.scaled ? amaxOf(fromOtherBlocks(words, kMeasured + kV)) : 0.0f;
    for (int slot = kP; slot <= kV; slot++) words[kMeasured + slot] = 0u;
  } else {
    if (j.p.scaled) report(j.p.job, seenP);
    if (j.m.scaled) report(j.m.job, seenM);
    if (j.v.scaled) report(j.v.job, seenV);
    if (writesW && j.w.scaled) report(j.w.job, seenW);
    if (!lastBlock(j.p.job.words + kTicket) || threadIdx.x > 0) return;
    const Ptr<unsigned> words = j.p.job.words;
    const bool whole = j.phase == 2;
    if (writesW && j.w.scaled) finish(j.w.job, scaleW, whole ? j.p.stored(amaxOf(magnitude(j.amaxes[0])), scaleP, newP) : -1.0f);
    if (j.p.scaled) finish(j.p.job, scaleP, whole ? float(j.amaxes[0]) : -1.0f);
    if (j.m.scaled) finish(j.m.job, scaleM, whole ? float(j.amaxes[1]) : -1.0f);
    if (j.v.scaled) finish(j.v.job, scaleV, whole ? float(j.amaxes[2]) : -1.0f);
    for (int slot = kP; slot <= kV; slot++) words[kMeasured + slot] = 0u;
    // Left for castWeightKernel: whether the weight is still to be written.
    words[kMeasured + kW] = j.w.present && !writesW ? 1u : 0u;
  }
}

/// The weight beside a master whose amax is not finite: measured, then cast, by one block. Not met in training, where a
/// gradient norm that is not finite skips the step.
__global__ void __launch_bounds__(kThreads, 3) castWeightKernel(AnyState w, AnyInput master, Ptr<unsigned> words, int64_t n) {
  beginKernel();
  if (words[kMeasured + kW] == 0u) return;
  const float inv = master.inv();
  unsigned largest = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const unsigned m = magnitude(master.value(i, inv));
    largest = m > largest ? m : largest;
  }
  largest = blockReduce<Reduce::max>(largest);
  const float scale = scaleFor(amaxOf(largest), w.job.max, previousScale(w.job.block[kScale]));
  Seen seen;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) w.store(i, master.value(i, inv), scale, 1.0f, seen);
  report(w.job, seen);
  __syncthreads();
  if (threadIdx.x == 0) finish(w.job, scale);
}

}  // namespace

void adamwAny(const AdamWCall& c) {
  const Tensor& master = c.master;
  Job job{AnyState(master ? master : c.w, master ? "master" : "w", kP), AnyState(c.m, "m", kM), AnyState(c.v, "v", kV), master ? AnyState(c.w, "w", kW) : AnyState(),
          AnyInput(c.grad, "grad"), ptr<const float>(c.control, "control"), ptr<float>(c.amaxes, "amaxes"), c.n, c.phase, c.hyper};
  if (c.phase == 2) {
    job.p.job.known = job.amaxes + 0;
    job.m.job.known = job.amaxes + 1;
    job.v.job.known = job.amaxes + 2;
  }
  job.p.job.words = words();  // also where p has no scale
  const dim3 grid(blocksFor(c.n, kThreads * 4)), block(kThreads);
  const bool measures = job.p.scaled || job.m.scaled || job.v.scaled || job.w.scaled;
  if (c.phase == 1 || (c.phase == 0 && measures)) launch("adamw", adamwKernel<false>, grid, block, job);
  if (c.phase == 1) return;
  launch("adamw", adamwKernel<true>, grid, block, job);
  if (job.w.scaled) launch("adamw", castWeightKernel, dim3(1), block, job.w, AnyInput(master, "master"), words(), c.n);
}

}  // namespace fp8lm
