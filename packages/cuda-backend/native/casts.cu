// fill, cast, quantize, quantize_rows, accumulate_fp8, amax, and the bookkeeping of scales. Bit-exact.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "../../fp8-kernels/native/philox.h"
#include <stdexcept>

#include "both_ways.h"
#include "fills.h"

namespace fp8lm {

namespace {

/// `words` repeats the element's bits; 16 bytes at once but for the ends.
template <class C> __device__ __forceinline__ void fillAll(Ptr<C> y, bool aligned, uint32_t bits, int64_t n) {
  constexpr int per = 16 / int(sizeof(C));
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * per;
  const uint32_t word = sizeof(C) == 4 ? bits : sizeof(C) == 2 ? bits * 0x10001u : bits * 0x1010101u, words[4] = {word, word, word, word};
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * per; i < n; i += stride) {
    if (aligned && i + per <= n) storeWords(y, i, words);
    else
      for (int k = 0; k < per && i + k < n; k++) y[i + k] = codeOf<C>(bits);
  }
}

template <class C> __global__ void __launch_bounds__(kThreads, 3) fillKernel(Ptr<C> y, bool aligned, uint32_t bits, int64_t n) {
  beginKernel();
  fillAll(y, aligned, bits, n);
}

template <DType Y> __global__ void __launch_bounds__(kThreads, 3) fillScaledKernel(Ptr<Code<Y>> y, bool aligned, Ptr<float> block, float max, float x, int64_t n) {
  beginKernel();
  const float scale = block[kScale], t = math::mul(x, scale);
  fillAll(y, aligned, bitsOfCode(Form<Y>::encode(t)), n);
  if (blockIdx.x > 0 || threadIdx.x > 0) return;
  block[kScaleInv] = math::div(1.0f, scale);
  block[kAmax] = fabsf(x);
  block[kSaturated] = fabsf(t) > max ? float(n) : 0.0f;
}

template <DType Y> __device__ __forceinline__ Code<Y> encodeStochastic(float t, uint32_t word) {
  if constexpr (Y == DType::e4m3) return encodeE4M3Stochastic(t, word);
  else if constexpr (Y == DType::e5m2) return encodeE5M2Stochastic(t, word);
  else {
    const uint32_t u = bitsOf(t), abs = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
    if (abs > 0x7f800000u) return uint16_t(sign | 0x7e00u);
    const uint32_t code = abs >= 0x7f000000u ? 0x7c00u : roundMagnitudeStochastic<10, 15>(abs, word);
    return uint16_t(sign | (code > 0x7bffu ? 0x7bffu : code));
  }
}

/// The values of one tensor, rounded at random.
template <DType X> struct Stochastic : Plain<X> {
  PhiloxKey key;
  mutable uint32_t words[kGroup];
  Stochastic(const Tensor& t, int64_t random) : Plain<X>(t), key(philoxKey(uint64_t(random))), words{} {}
  __device__ __forceinline__ void values(const Group<X>& raw, int64_t i, float (&v)[kGroup]) const {
    Plain<X>::values(raw, i, v);
#pragma unroll
    for (int k = 0; k < kGroup; k += 4) {
      const PhiloxWords w = philox(key, uint64_t(i + k) >> 2, kRoundingStream);
#pragma unroll
      for (int q = 0; q < 4; q++) words[k + q] = w.w[q];
    }
  }
  template <DType Y> __device__ __forceinline__ Group<Y> encode(Of<Y>, const float (&t)[kGroup]) const {
    constexpr int per = 4 / int(sizeof(Code<Y>));
    Group<Y> p;
#pragma unroll
    for (int q = 0; q < Group<Y>::kWords; q++) {
      p.w[q] = 0u;
#pragma unroll
      for (int k = 0; k < per; k++) p.w[q] |= uint32_t(encodeStochastic<Y>(t[q * per + k], words[q * per + k])) << (k * 32 / per);
    }
    return p;
  }
};

/// y + x, for accumulate_fp8.
template <DType Y, DType X> struct Accumulated : Both<Y, X> {
  float inv = 1.0f;
  Accumulated(const Tensor& y, const Tensor& x) : Both<Y, X>(y, "y", x, "x") {}
  __device__ __forceinline__ void prepare() { inv = this->a.inv(); }
  __device__ __forceinline__ void values(const typename Both<Y, X>::Raw& raw, int64_t, float (&v)[kGroup]) const {
    float add[kGroup];
    this->a.values(raw.a, inv, v);
    this->b.values(raw.b, 1.0f, add);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::add(v[k], add[k]);
  }
};

template <DType X> __global__ void __launch_bounds__(kThreads, 3) amaxKernel(Ptr<float> y, Plain<X> source, Ptr<unsigned> words, int64_t n) {
  beginKernel();
  float largest = 0.0f;
  forGroups(source, n, [&] { source.prepare(); }, [&](int64_t, int, const float (&v)[kGroup]) {
#pragma unroll
    for (int k = 0; k < kGroup; k++) largest = maxMagnitude(largest, v[k]);
  });
  const unsigned bits = blockReduce<Reduce::max>(magnitude(largest));
  if (threadIdx.x == 0 && bits) atomicMaxAt(words, kAmaxWord, bits);
  if (lastThread(words + kTicket)) {
    y[0] = amaxOf(fromOtherBlocks(words, kAmaxWord));
    words[kAmaxWord] = 0u;
  }
}

__global__ void windowUpdateKernel(Ptr<float> windows, int64_t count, float max) {
  beginKernel();
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Ptr<float> w = windows + i * kWindowBlock;
  float a = w[kWindowAmax];
  const bool bad = magnitude(a) >= 0x7f800000u;
  if (bad) a = 0.0f;
  float largest = a;
  for (int k = 0; k < kWindow - 1; k++) {
    const float h = w[kWindowHistory + k];
    largest = h > largest ? h : largest;
  }
  const float scale = w[kWindowScale];
  w[kWindowScale] = scaleFor(largest, max, scale > 0.0f ? scale : 1.0f);
  for (int k = kWindow - 2; k > 0; k--) w[kWindowHistory + k] = float(w[kWindowHistory + k - 1]);
  w[kWindowHistory] = a;
  const float steps = w[kWindowCount];
  w[kWindowCount] = bad ? 0.0f : steps + 1.0f < float(kWindow) ? steps + 1.0f : float(kWindow);
  w[kWindowAmax] = 0.0f;
}

/// Stores what it sees, scaled.
template <DType Y> struct Quantized {
  Output<Y> y;
  ScaleJob job;
  float scale;
  Seen seen;
  Quantized(const Output<Y>& y_, const ScaleJob& job_) : y(y_), job(job_), scale(1.0f), seen() {}
  __device__ __forceinline__ void begin() { scale = chooseScale(job); }
  __device__ __forceinline__ void each(int64_t i, const float (&v)[kSumWidth]) {
    float t[kSumWidth];
#pragma unroll
    for (int k = 0; k < kSumWidth; k++) t[k] = math::mul(v[k], scale);
    seen.add(v, t, scale, job.max);
    storeWords(y.data, i, pack<Y>(t).w);
  }
  __device__ __forceinline__ void end() {
    if (lastToReport(job, seen)) finish(job, scale);
  }
};

void castTo(const char* name, const Tensor& y, const Tensor& x, const ScaleJob& job, int64_t n, int64_t random) {
  withAny(x.dtype, [&](auto d) {
    constexpr DType X = decltype(d)::value;
    if (random && isScaledType(y.dtype)) map(name, y, Stochastic<X>(x, random), job, n);
    else map(name, y, Plain<X>(x), job, n);
  });
}

/// The cast of x and the sums of its columns in one pass. @returns false where rows are no whole vectors, or rounded at random
bool castAndSum(const Tensor& y, const Tensor& sums, const Tensor& x, const ScaleJob& job, int64_t rows, int64_t dim, int64_t random) {
  if (random || rows == 0 || dim == 0 || dim % kSumWidth || !isAligned(x) || !isAligned(y)) return false;
  withAct(x.dtype, [&](auto d) {
    constexpr DType X = decltype(d)::value;
    launchMeasure("quantize_rows", Plain<X>(x), job, rows * dim);
    withFp8(y.dtype, [&](auto e) {
      constexpr DType Y = decltype(e)::value;
      sumColumns("quantize_rows", input<X>(x, "x"), Quantized<Y>(output<Y>(y, "y"), job), ptr<float>(sums, "sums"), rows, dim);
    });
  });
  return true;
}

}  // namespace

void fill(const Tensor& y, int64_t n, double value) {
  const dim3 grid(blocksFor(n * bytesOf(y.dtype), kThreads * 32)), block(kThreads);
  const float x = float(value);
  const bool aligned = isAligned(y);
  switch (y.dtype) {
    case DType::f32: return fillFloats(y, n, x);
    case DType::bf16: return launch("fill", fillKernel<uint16_t>, grid, block, ptr<uint16_t>(y, "y"), aligned, encodeBF16(x), n);
    case DType::i32: return launch("fill", fillKernel<int32_t>, grid, block, ptr<int32_t>(y, "y"), aligned, uint32_t(int32_t(value)), n);
    default: break;
  }
  withOneOf<DType::f16, DType::e4m3, DType::e5m2>(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    launch("fill", fillScaledKernel<Y>, grid, block, ptr<Code<Y>>(y, "y"), aligned, scalePtr(y, "y's scale block"), maxOf(Y), x, n);
  });
}

void cast(const Tensor& y, const Tensor& x, int64_t n, int64_t random) {
  ScaleJob job = scaleJob(y);
  job.keep = true;
  castTo("cast", y, x, job, n, random);
}

void quantize(const Tensor& y, const Tensor& x, const Tensor& window, const Tensor& mu, const Tensor& known, int64_t n, int64_t random) {
  ScaleJob job = scaleJob(y);
  job.window = ptr<float>(window, "window");
  job.mu = ptr<const float>(mu, "mu");
  job.known = ptr<const float>(known, "known");
  job.source = scalePtr(x, "x's scale block");
  castTo("quantize", y, x, job, n, random);
}

void quantize_rows(const Tensor& y, const Tensor& transposed, const Tensor& sums, const Tensor& x, const Tensor& window, int64_t rows, int64_t dim, int64_t random) {
  if (transposed && transposed.dtype != y.dtype) throw std::invalid_argument("transposed and y must have one dtype");
  ScaleJob job = scaleJob(y);
  job.window = ptr<float>(window, "window");
  if (transposed && random == 0 && castBothWays(y, transposed, sums, x, job, rows, dim)) return;
  if (sums && !transposed && castAndSum(y, sums, x, job, rows, dim, random)) return;
  castTo("quantize_rows", y, x, job, rows * dim, random);
  if (sums) column_sums(sums, x, rows, dim);
  if (transposed) transposeOf(transposed, y, rows, dim);
}

void column_sums(const Tensor& y, const Tensor& x, int64_t rows, int64_t dim) {
  withAct(x.dtype, [&](auto d) {
    constexpr DType X = decltype(d)::value;
    addColumnsOf("column_sums", input<X>(x, "x"), ptr<float>(y, "y"), rows, dim);
  });
}

void accumulate_fp8(const Tensor& y, const Tensor& x, const Tensor& mu, int64_t n) {
  ScaleJob job = scaleJob(y);
  job.mu = ptr<const float>(mu, "mu");
  withFp8(y.dtype, [&](auto d) {
    withAct(x.dtype, [&](auto e) {
      constexpr DType Y = decltype(d)::value, X = decltype(e)::value;
      const Accumulated<Y, X> source(y, x);
      launchMeasure("accumulate_fp8", source, job, n);
      launchGroups("accumulate_fp8", mapKernel<Y, Accumulated<Y, X>>, n, output<Y>(y, "y"), source, job);
    });
  });
}

void amax(const Tensor& y, const Tensor& x, int64_t n) {
  withAny(x.dtype, [&](auto d) {
    constexpr DType X = decltype(d)::value;
    launchGroups("amax", amaxKernel<X>, n, ptr<float>(y, "y"), Plain<X>(x), words());
  });
}

void window_update(const Tensor& windows, int64_t count, double max) {
  if (count == 0) return;
  launch("window_update", windowUpdateKernel, dim3(unsigned((count + 127) / 128)), dim3(128), ptr<float>(windows, "windows"), count, float(max));
}

}  // namespace fp8lm
