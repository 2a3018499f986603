// Softmax cross-entropy, a block a row, in place; and sums in float64, in a fixed order.
#include <cmath>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "context.h"
#include "formats.h"

namespace fp8lm {

namespace {

/// loss = (1 - e) (lse - logit[target]) + e mean(lse - logit). With `backward` the logits become
/// gradScale (softmax - (1 - e) onehot - e / vocab). target < 0: loss and gradient 0; target >= vocab: loss NaN.
template <DType L>
__global__ void __launch_bounds__(kThreads, 3) crossEntropyKernel(Ptr<Code<L>> logits, Ptr<float> loss, Ptr<const int32_t> targets, int64_t vocab, float gradScale, float smoothing, bool backward) {
  const int64_t r = blockIdx.x, at = r * vocab;
  const int32_t target = targets[r];
  const auto logit = [&](int64_t c) -> float { return Form<L>::decode(logits[at + c]); };
  if (target < 0 || target >= vocab) {
    if (threadIdx.x == 0) loss[r] = target < 0 ? 0.0f : floatOf(0x7fc00000u);
    if (backward)
      for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) logits[at + c] = Form<L>::encode(0.0f);
    return;
  }
  float top = -INFINITY, total = 0.0f;
  for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) {
    const float v = logit(c);
    top = v > top ? v : top;
    total += v;
  }
  top = blockReduce<Reduce::max>(top);
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) sum += math::exp(math::sub(logit(c), top));
  sum = blockReduce<Reduce::sum>(sum);
  const float logSum = logf(sum);
  const float ofTarget = math::sub(logit(target), top);
  const float mean = smoothing > 0.0f ? math::div(blockReduce<Reduce::sum>(total), float(vocab)) : 0.0f;
  __syncthreads();  // all have read the target's logit before it is overwritten
  if (threadIdx.x == 0) {
    float l = math::mul(1.0f - smoothing, logSum - ofTarget);
    if (smoothing > 0.0f) l = math::add(l, math::mul(smoothing, (top - mean) + logSum));
    loss[r] = l;
  }
  if (!backward) return;
  const float invSum = math::div(1.0f, sum), uniform = math::div(smoothing, float(vocab));
  for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) {
    const float p = math::mul(math::exp(math::sub(logit(c), top)), invSum);
    const float wanted = (c == target ? 1.0f - smoothing : 0.0f) + uniform;
    logits[at + c] = Form<L>::encode(math::mul(p - wanted, gradScale));
  }
}

/// A row of a slice of the vocabulary: max, sum exp(x - max), logit of the target or 0, sum of logits.
template <DType L>
__global__ void __launch_bounds__(kThreads) softmaxStatsKernel(Ptr<float> stats, Ptr<const Code<L>> logits, Ptr<const int32_t> targets, int64_t vocab, int64_t vocabStart) {
  const int64_t r = blockIdx.x, at = r * vocab;
  const auto logit = [&](int64_t c) -> float { return Form<L>::decode(logits[at + c]); };
  float top = -INFINITY, total = 0.0f;
  for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) {
    const float v = logit(c);
    top = v > top ? v : top;
    total += v;
  }
  top = blockReduce<Reduce::max>(top);
  total = blockReduce<Reduce::sum>(total);
  float sum = 0.0f;
  for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) sum += math::exp(math::sub(logit(c), top));
  sum = blockReduce<Reduce::sum>(sum);
  if (threadIdx.x > 0) return;
  const int64_t target = int64_t(targets[r]) - vocabStart;
  stats[4 * r] = top;
  stats[4 * r + 1] = sum;
  stats[4 * r + 2] = target >= 0 && target < vocab ? logit(target) : 0.0f;
  stats[4 * r + 3] = total;
}

/// crossEntropyKernel for a slice of `total` logits, from the stats [parts, rows, 4] of all slices.
template <DType L>
__global__ void __launch_bounds__(kThreads) shardedCrossEntropyKernel(Ptr<Code<L>> logits, Ptr<float> loss, Ptr<const float> stats, Ptr<const int32_t> targets, int64_t vocab, int64_t vocabStart, int64_t parts, int64_t total, float gradScale, float smoothing, bool backward) {
  const int64_t r = blockIdx.x, rows = gridDim.x, at = r * vocab;
  const int64_t wantedToken = targets[r];
  if (wantedToken < 0 || wantedToken >= total) {
    if (threadIdx.x == 0) loss[r] = wantedToken < 0 ? 0.0f : floatOf(0x7fc00000u);
    if (backward)
      for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) logits[at + c] = Form<L>::encode(0.0f);
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
  const float invSum = math::div(1.0f, sum), uniform = math::div(smoothing, float(total));
  for (int64_t c = threadIdx.x; c < vocab; c += blockDim.x) {
    const float p = math::mul(math::exp(math::sub(Form<L>::decode(logits[at + c]), top)), invSum);
    const float wanted = (c == wantedToken - vocabStart ? 1.0f - smoothing : 0.0f) + uniform;
    logits[at + c] = Form<L>::encode(math::mul(p - wanted, gradScale));
  }
}

constexpr int kMostPartials = 256;

template <bool squares> __global__ void __launch_bounds__(kThreads, 3) sumKernel(Ptr<float> y, Ptr<double> partials, Ptr<unsigned> words, AnyInput x, int64_t n, double alpha) {
  double sum = 0.0;
  const float inv = x.inv();
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const double v = double(squares ? x.value(i, inv) : float(x.f32[i]));
    sum += squares ? v * v : v;
  }
  sum = blockReduce<Reduce::sum>(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (!lastBlock(words + kTicket) || threadIdx.x > 0) return;
  double total = 0.0;
  for (unsigned b = 0; b < gridDim.x; b++) total += fromOtherBlocks(partials, b);
  y[0] = float(alpha * total);
}

template <bool squares> void sumTo(const char* name, const Tensor& y, const Tensor& x, int64_t n, double alpha) {
  unsigned blocks = blocksFor(n, kThreads * 8);
  if (blocks > kMostPartials) blocks = kMostPartials;
  const Scratch partials(kMostPartials * sizeof(double));
  launch(name, sumKernel<squares>, dim3(blocks), dim3(kThreads), ptr<float>(y, "y"), partials.as<double>("partial sums"), words(), AnyInput(x, "x"), n, alpha);
}

}  // namespace

void softmax_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& targets, int64_t rows, int64_t vocab, double grad_scale, double smoothing, int64_t backward) {
  if (rows == 0) return;
  withAct(logits.dtype, [&](auto d) {
    constexpr DType L = decltype(d)::value;
    launch("softmax_cross_entropy", crossEntropyKernel<L>, dim3(unsigned(rows)), dim3(kThreads), ptr<Code<L>>(logits, "logits"), ptr<float>(loss, "loss"),
           ptr<const int32_t>(targets, "targets"), vocab, float(grad_scale), float(smoothing), backward != 0);
  });
}

void softmax_stats(const Tensor& stats, const Tensor& logits, const Tensor& targets, int64_t rows, int64_t vocab, int64_t vocab_start) {
  if (rows == 0) return;
  withAct(logits.dtype, [&](auto d) {
    constexpr DType L = decltype(d)::value;
    launch("softmax_stats", softmaxStatsKernel<L>, dim3(unsigned(rows)), dim3(kThreads), ptr<float>(stats, "stats"), ptr<const Code<L>>(logits, "logits"),
           ptr<const int32_t>(targets, "targets"), vocab, vocab_start);
  });
}

void sharded_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& stats, const Tensor& targets, int64_t rows, int64_t vocab, int64_t vocab_start, int64_t parts, int64_t total, double grad_scale, double smoothing, int64_t backward) {
  if (rows == 0) return;
  withAct(logits.dtype, [&](auto d) {
    constexpr DType L = decltype(d)::value;
    launch("sharded_cross_entropy", shardedCrossEntropyKernel<L>, dim3(unsigned(rows)), dim3(kThreads), ptr<Code<L>>(logits, "logits"), ptr<float>(loss, "loss"),
           ptr<const float>(stats, "stats"), ptr<const int32_t>(targets, "targets"), vocab, vocab_start, parts, total, float(grad_scale), float(smoothing), backward != 0);
  });
}

void sum(const Tensor& y, const Tensor& x, int64_t n, double alpha) { sumTo<false>("sum", y, x, n, alpha); }

void sum_squares(const Tensor& y, const Tensor& x, int64_t n) { sumTo<true>("sum_squares", y, x, n, 1.0); }

}  // namespace fp8lm
