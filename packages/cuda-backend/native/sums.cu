// Sums in float64, in a fixed order.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "context.h"
#include "formats.h"

namespace fp8lm {

namespace {

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

void sum(const Tensor& y, const Tensor& x, int64_t n, double alpha) { sumTo<false>("sum", y, x, n, alpha); }

void sum_squares(const Tensor& y, const Tensor& x, int64_t n) { sumTo<true>("sum_squares", y, x, n, 1.0); }

}  // namespace fp8lm
