// Elementwise kernels with any output: a Source gives values in groups, mapKernel stores them as f32, bf16, or scaled, in one
// pass; measureKernel is the pass before it where a scale just in time needs an amax first.
//
// A Source is a struct with
//   Raw, fetch(i, count)   what a group needs of memory, as stored; the next group is fetched while one is worked on
//   prepare()              what a thread computes once
//   values(raw, i, v)      the group's values
//   encode(Of<Y>, t)       how they are rounded
#pragma once
#include "scaling.h"

namespace fp8lm {

__device__ __forceinline__ int groupCount(int64_t i, int64_t n) { return n - i < kGroup ? int(n - i) : kGroup; }

/// What a source makes of the zeros beyond the last element counts nowhere.
__device__ __forceinline__ void zeroFrom(int count, float (&v)[kGroup]) {
  if (count == kGroup) return;
#pragma unroll
  for (int k = 0; k < kGroup; k++)
    if (k >= count) v[k] = 0.0f;
}

/// Calls f(i, count, v) for each group of this thread. Groups are counted in 32 bits: 2^35 elements.
template <class Source, class Begin, class F> __device__ __forceinline__ void forGroups(Source& source, int64_t n, Begin&& begin, F&& f) {
  const uint32_t groups = uint32_t((n + kGroup - 1) / kGroup), stride = gridDim.x * blockDim.x, last = groups - 1u;
  const int ofLast = int(n - int64_t(last) * kGroup);
  uint32_t g = blockIdx.x * blockDim.x + threadIdx.x;
  const auto countOf = [&](uint32_t group) { return group == last ? ofLast : kGroup; };
  typename Source::Raw next{};
  if (g < groups) next = source.fetch(int64_t(g) * kGroup, countOf(g));
  begin();
  for (; g < groups; g += stride) {
    const typename Source::Raw raw = next;
    if (g + stride < groups) next = source.fetch(int64_t(g + stride) * kGroup, countOf(g + stride));
    float v[kGroup];
    source.values(raw, int64_t(g) * kGroup, v);
    f(int64_t(g) * kGroup, countOf(g), v);
  }
}

template <class Source> __global__ void __launch_bounds__(kThreads, 3) measureKernel(Source source, ScaleJob job, int64_t n) {
  beginKernel();
  if (!needsMeasure(job)) return;
  float largest = 0.0f;
  forGroups(source, n, [&] { source.prepare(); }, [&](int64_t, int count, float (&v)[kGroup]) {
    zeroFrom(count, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) largest = maxMagnitude(largest, v[k]);
  });
  const unsigned bits = blockReduce<Reduce::max>(magnitude(largest));
  if (threadIdx.x == 0 && bits) atomicMaxAt(job.words, kMeasured + job.slot, bits);
}

template <DType Y, class Source>
__global__ void __launch_bounds__(kThreads, 3) mapKernel(Output<Y> y, Source source, ScaleJob job, int64_t n) {
  beginKernel();
  float scale = 1.0f;
  Seen seen;
  const auto begin = [&] {
    source.prepare();
    if constexpr (isScaled<Y>) scale = chooseScale(job);
  };
  forGroups(source, n, begin, [&](int64_t i, int count, float (&v)[kGroup]) {
    if constexpr (isScaled<Y>) {
      float t[kGroup];
      zeroFrom(count, v);
#pragma unroll
      for (int k = 0; k < kGroup; k++) t[k] = math::mul(v[k], scale);
      seen.add(v, t, scale, job.max);
      y.store(i, count, source.encode(Of<Y>{}, t));
    } else {
      y.store(i, count, pack<Y>(v));
    }
  });
  if constexpr (isScaled<Y>) {
    if (lastToReport(job, seen)) finish(job, scale);
  }
}

/// Rounding of sources that have no say in it.
struct NearestEven {
  template <DType Y> __device__ __forceinline__ Group<Y> encode(Of<Y>, const float (&t)[kGroup]) const { return pack<Y>(t); }
};

/// A grid for a kernel that strides over n elements.
template <class K> inline dim3 groupGrid(K kernel, int64_t n) { return dim3(blocksOf(kernel, n, int64_t(kThreads) * kGroup, kThreads)); }
template <class K, class... A> inline void launchGroups(const char* name, K kernel, int64_t n, A&&... args) {
  launch(name, kernel, groupGrid(kernel, n), dim3(kThreads), args..., n);
}

inline dim3 groupBlocks(int64_t n) { return dim3(blocksFor(n, int64_t(kThreads) * kGroup)); }

template <class Source> inline void launchMeasure(const char* name, const Source& source, const ScaleJob& job, int64_t n) {
  const auto kernel = &measureKernel<Source>;
  launch(name, kernel, dim3(measureBlocks(groupGrid(kernel, n).x)), dim3(kThreads), source, job, n);
}

/// Stores the n values of a source in y, whichever dtype y has; `job` (from scaleJob) tells how its scale is chosen.
template <class Source> inline void map(const char* name, const Tensor& y, const Source& source, const ScaleJob& job, int64_t n) {
  if (isScaledType(y.dtype) && !job.keep && !job.known) launchMeasure(name, source, job, n);
  withAny(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launchGroups(name, mapKernel<Y, Source>, n, output<Y>(y, "y"), source, job);
  });
}

/// The same for outputs in f32 and bf16 only.
template <class Source> inline void mapAct(const char* name, const Tensor& y, const Source& source, int64_t n) {
  withAct(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launchGroups(name, mapKernel<Y, Source>, n, output<Y>(y, "y"), source, ScaleJob{});
  });
}

/// For activations: f32, bf16, e4m3, e5m2.
template <class Source> inline void mapActOrFp8(const char* name, const Tensor& y, const Source& source, const Tensor& window, int64_t n) {
  if (!isScaledType(y.dtype)) return mapAct(name, y, source, n);
  ScaleJob job = scaleJob(y);
  job.window = ptr<float>(window, "window");
  launchMeasure(name, source, job, n);
  withFp8(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launchGroups(name, mapKernel<Y, Source>, n, output<Y>(y, "y"), source, job);
  });
}

/// The values of one tensor.
template <DType X> struct Plain : NearestEven {
  using Raw = Group<X>;
  Input<X> x;
  float inv = 1.0f;
  explicit Plain(const Tensor& t, const char* name = "x") : x(input<X>(t, name)) {}
  __device__ __forceinline__ void prepare() { inv = x.inv(); }
  __device__ __forceinline__ Raw fetch(int64_t i, int count) const { return x.fetch(i, count); }
  __device__ __forceinline__ void values(const Raw& raw, int64_t, float (&v)[kGroup]) const { x.values(raw, inv, v); }
};

/// Two tensors in f32 or bf16.
template <DType A, DType B> struct Both : NearestEven {
  struct Raw {
    Group<A> a;
    Group<B> b;
  };
  Input<A> a;
  Input<B> b;
  Both(const Tensor& a_, const char* nameA, const Tensor& b_, const char* nameB) : a(input<A>(a_, nameA)), b(input<B>(b_, nameB)) {}
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ Raw fetch(int64_t i, int count) const { return {a.fetch(i, count), b.fetch(i, count)}; }
};

}  // namespace fp8lm
