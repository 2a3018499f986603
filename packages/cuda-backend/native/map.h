// Elementwise kernels with any output: a Source gives values in groups of 16, mapKernel stores them as f32, bf16, or scaled,
// in one pass; measureKernel is the pass before it where a scale just in time needs an amax first.
//
// A Source is a struct with `prepare()` (what a thread computes once) and `load(i, count, v)`.
#pragma once
#include "scaling.h"

namespace fp8lm {

template <class Source> __global__ void __launch_bounds__(kThreads, 3) measureKernel(Source source, ScaleJob job, int64_t n) {
  if (!needsMeasure(job)) return;
  source.prepare();
  unsigned largest = 0;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * kGroup;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kGroup; i < n; i += stride) {
    const int count = n - i < kGroup ? int(n - i) : kGroup;
    float v[kGroup];
    source.load(i, count, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      const unsigned m = k < count ? magnitude(v[k]) : 0u;
      if (m > largest) largest = m;
    }
  }
  largest = blockReduce<Reduce::max>(largest);
  if (threadIdx.x == 0 && largest) atomicMaxAt(job.words, kMeasured + job.slot, largest);
}

template <DType Y, class Source>
__global__ void __launch_bounds__(kThreads, 3) mapKernel(Output<Y> y, Source source, ScaleJob job, int64_t n) {
  source.prepare();
  float scale = 1.0f;
  Seen seen;
  if constexpr (isScaled<Y>) scale = chooseScale(job);
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * kGroup;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kGroup; i < n; i += stride) {
    const int count = n - i < kGroup ? int(n - i) : kGroup;
    float v[kGroup];
    source.load(i, count, v);
    Code<Y> c[kGroup];
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      if constexpr (isScaled<Y>) {
        const float t = math::mul(v[k], scale);
        if (k < count) seen.add(v[k], t, job.max);
        c[k] = source.encode(Of<Y>{}, t, k);
      } else {
        c[k] = Form<Y>::encode(v[k]);
      }
    }
    y.store(i, count, c);
  }
  if constexpr (isScaled<Y>) {
    report(job, seen);
    if (lastBlock(job.words + kTicket) && threadIdx.x == 0) finish(job, scale);
  }
}

/// Rounding of sources that have no say in it.
struct NearestEven {
  template <DType Y> __device__ __forceinline__ Code<Y> encode(Of<Y>, float t, int) const { return Form<Y>::encode(t); }
};

inline dim3 groupBlocks(int64_t n) { return dim3(blocksFor(n, int64_t(kThreads) * kGroup)); }

/// Stores the n values of a source in y, whichever dtype y has; `job` (from scaleJob) tells how its scale is chosen.
template <class Source> inline void map(const char* name, const Tensor& y, const Source& source, const ScaleJob& job, int64_t n) {
  if (isScaledType(y.dtype) && !job.keep) launch(name, measureKernel<Source>, groupBlocks(n), dim3(kThreads), source, job, n);
  withAny(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launch(name, mapKernel<Y, Source>, groupBlocks(n), dim3(kThreads), output<Y>(y, "y"), source, job, n);
  });
}

/// The same for outputs in f32 and bf16 only.
template <class Source> inline void mapAct(const char* name, const Tensor& y, const Source& source, int64_t n) {
  withAct(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launch(name, mapKernel<Y, Source>, groupBlocks(n), dim3(kThreads), output<Y>(y, "y"), source, ScaleJob{}, n);
  });
}

/// For activations: f32, bf16, e4m3, e5m2.
template <class Source> inline void mapActOrFp8(const char* name, const Tensor& y, const Source& source, const Tensor& window, int64_t n) {
  if (!isScaledType(y.dtype)) return mapAct(name, y, source, n);
  ScaleJob job = scaleJob(y);
  job.window = ptr<float>(window, "window");
  launch(name, measureKernel<Source>, groupBlocks(n), dim3(kThreads), source, job, n);
  withFp8(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launch(name, mapKernel<Y, Source>, groupBlocks(n), dim3(kThreads), output<Y>(y, "y"), source, job, n);
  });
}

/// The values of one tensor.
template <DType X> struct Plain : NearestEven {
  Input<X> x;
  float inv = 1.0f;
  explicit Plain(const Tensor& t, const char* name = "x") : x(input<X>(t, name)) {}
  __device__ __forceinline__ void prepare() { inv = x.inv(); }
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const { x.load(i, count, inv, v); }
};

}  // namespace fp8lm
