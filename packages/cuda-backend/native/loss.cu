// Softmax cross-entropy, a block a row, in place: whole rows, and rows of which each rank has a slice of the vocabulary.
#include <stdexcept>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "softmax.h"

namespace fp8lm {

namespace {

/// Logits [rows, stride], of which vocab count; `before` elements lie between the last multiple of 16 bytes and the first of them.
template <DType L> struct Logits {
  Ptr<Code<L>> data;
  int64_t vocab, stride;
  int before;

  Logits(const Tensor& t, int64_t vocab_, int64_t stride_) : data(ptr<Code<L>>(t, "logits")), vocab(vocab_), stride(stride_), before(int(reinterpret_cast<uintptr_t>(t.data) % 16 / sizeof(Code<L>))) {}
  template <int held> __device__ __forceinline__ Row<L, held> row(int64_t r) const {
    return {data + r * stride, vocab, int((before + r * stride) % Row<L, held>::per)};
  }
  __device__ __forceinline__ void clearPadding(int64_t r) const {
    for (int64_t i = vocab + threadIdx.x; i < stride; i += blockDim.x) data[r * stride + i] = Code<L>(0);
  }
};

/// What the gradient of one row is made of: gradScale (softmax - (1 - e) onehot - e / vocab).
struct RowGradient {
  float top, invSum, uniform, gradScale;
  __device__ __forceinline__ float operator()(float x) const { return math::mul(math::mulAdd(expFrom(x, top), invSum, -uniform), gradScale); }
  /// Of the target itself, where the terms nearly cancel.
  __device__ __forceinline__ float ofTarget(float x, float smoothing) const {
    return math::mul(math::mul(expFrom(x, top), invSum) - ((1.0f - smoothing) + uniform), gradScale);
  }
};

/// loss = (1 - e) (lse - logit[target]) + e mean(lse - logit). target < 0: loss and gradient 0; target >= vocab: loss NaN.
template <DType L, bool smooth>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) crossEntropyKernel(Logits<L> logits, Ptr<float> loss, Ptr<const int32_t> targets, float gradScale, float smoothing, bool backward) {
  beginKernel();
  const int64_t r = blockIdx.x, vocab = logits.vocab;
  const int32_t target = targets[r];
  auto row = logits.template row<kHeld>(r);
  if (backward) logits.clearPadding(r);
  if (target < 0 || target >= vocab) {
    if (threadIdx.x == 0) loss[r] = target < 0 ? 0.0f : floatOf(0x7fc00000u);
    if (backward) row.clear();
    return;
  }
  const float logitOfTarget = Form<L>::decode(logits.data[r * logits.stride + target]);
  SoftmaxStats<smooth> own;
  row.read(own);
  const auto all = own.ofBlock();  // its barriers: all have read the target's logit before it is overwritten
  if (threadIdx.x == 0) {
    const float logSum = logf(all.sum);
    float l = math::mul(1.0f - smoothing, logSum - math::sub(logitOfTarget, all.top));
    if (smooth) l = math::add(l, math::mul(smoothing, (all.top - math::div(all.total, float(vocab))) + logSum));
    loss[r] = l;
  }
  if (!backward) return;
  const RowGradient gradient{all.top, math::div(1.0f, all.sum), smooth ? math::div(smoothing, float(vocab)) : 0.0f, gradScale};
  row.rewrite(gradient);
  __syncthreads();
  if (threadIdx.x == 0) logits.data[r * logits.stride + target] = Form<L>::encode(gradient.ofTarget(logitOfTarget, smoothing));
}

/// A row of a slice of the vocabulary: max, sum exp(x - max), logit of the target or 0, sum of logits.
template <DType L>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) softmaxStatsKernel(Ptr<float> stats, Logits<L> logits, Ptr<const int32_t> targets, int64_t vocabStart) {
  beginKernel();
  const int64_t r = blockIdx.x;
  SoftmaxStats<true> own;
  logits.template row<0>(r).read(own);
  const auto all = own.ofBlock();
  if (threadIdx.x > 0) return;
  const int64_t target = int64_t(targets[r]) - vocabStart;
  stats[4 * r] = all.top;
  stats[4 * r + 1] = all.sum;
  stats[4 * r + 2] = target >= 0 && target < logits.vocab ? Form<L>::decode(logits.data[r * logits.vocab + target]) : 0.0f;
  stats[4 * r + 3] = all.total;
}

/// crossEntropyKernel for a slice of `total` logits, from the stats [parts, rows, 4] of all slices.
template <DType L>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) shardedCrossEntropyKernel(Logits<L> logits, Ptr<float> loss, Ptr<const float> stats, Ptr<const int32_t> targets, int64_t vocabStart, int64_t parts, int64_t total, float gradScale, float smoothing, bool backward) {
  beginKernel();
  const int64_t r = blockIdx.x, rows = gridDim.x;
  const int64_t wantedToken = targets[r];
  auto row = logits.template row<0>(r);
  if (wantedToken < 0 || wantedToken >= total) {
    if (threadIdx.x == 0) loss[r] = wantedToken < 0 ? 0.0f : floatOf(0x7fc00000u);
    if (backward) row.clear();
    return;
  }
  float top = -INFINITY;
  for (int64_t p = 0; p < parts; p++) {
    const float own = stats[4 * (p * rows + r)];
    top = own > top || own != own ? own : top;
  }
  float sum = 0.0f, ofTarget = 0.0f, all = 0.0f;
  for (int64_t p = 0; p < parts; p++) {
    const int64_t s = 4 * (p * rows + r);
    sum = math::add(sum, math::mul(stats[s + 1], math::exp(math::sub(stats[s], top))));
    ofTarget = math::add(ofTarget, stats[s + 2]);
    all = math::add(all, stats[s + 3]);
  }
  if (threadIdx.x == 0) {
    const float logSum = logf(sum);
    float l = math::mul(1.0f - smoothing, logSum - math::sub(ofTarget, top));
    if (smoothing > 0.0f) l = math::add(l, math::mul(smoothing, (top - math::div(all, float(total))) + logSum));
    loss[r] = l;
  }
  if (!backward) return;
  const RowGradient gradient{top, math::div(1.0f, sum), math::div(smoothing, float(total)), gradScale};
  const int64_t target = wantedToken - vocabStart;
  const bool mine = target >= 0 && target < logits.vocab;
  const float logitOfTarget = mine ? Form<L>::decode(logits.data[r * logits.vocab + target]) : 0.0f;
  __syncthreads();  // all have read it before it is overwritten
  row.rewrite(gradient);
  __syncthreads();
  if (threadIdx.x == 0 && mine) logits.data[r * logits.vocab + target] = Form<L>::encode(gradient.ofTarget(logitOfTarget, smoothing));
}

}  // namespace

void softmax_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& targets, int64_t rows, int64_t vocab, int64_t stride, double grad_scale, double smoothing, int64_t backward) {
  if (stride < vocab) throw std::invalid_argument("stride " + std::to_string(stride) + " is less than vocab " + std::to_string(vocab));
  if (rows == 0) return;
  withAct(logits.dtype, [&](auto d) {
    constexpr DType L = decltype(d)::value;
    const auto kernel = smoothing > 0.0 ? crossEntropyKernel<L, true> : crossEntropyKernel<L, false>;
    launch("softmax_cross_entropy", kernel, dim3(unsigned(rows)), dim3(kRowThreads), Logits<L>(logits, vocab, stride), ptr<float>(loss, "loss"), ptr<const int32_t>(targets, "targets"),
           float(grad_scale), float(smoothing), backward != 0);
  });
}

void softmax_stats(const Tensor& stats, const Tensor& logits, const Tensor& targets, int64_t rows, int64_t vocab, int64_t vocab_start) {
  if (rows == 0) return;
  withAct(logits.dtype, [&](auto d) {
    constexpr DType L = decltype(d)::value;
    launch("softmax_stats", softmaxStatsKernel<L>, dim3(unsigned(rows)), dim3(kRowThreads), ptr<float>(stats, "stats"), Logits<L>(logits, vocab, vocab),
           ptr<const int32_t>(targets, "targets"), vocab_start);
  });
}

void sharded_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& stats, const Tensor& targets, int64_t rows, int64_t vocab, int64_t vocab_start, int64_t parts, int64_t total, double grad_scale, double smoothing, int64_t backward) {
  if (rows == 0) return;
  withAct(logits.dtype, [&](auto d) {
    constexpr DType L = decltype(d)::value;
    launch("sharded_cross_entropy", shardedCrossEntropyKernel<L>, dim3(unsigned(rows)), dim3(kRowThreads), Logits<L>(logits, vocab, vocab), ptr<float>(loss, "loss"),
           ptr<const float>(stats, "stats"), ptr<const int32_t>(targets, "targets"), vocab_start, parts, total, float(grad_scale), float(smoothing), backward != 0);
  });
}

}  // namespace fp8lm
