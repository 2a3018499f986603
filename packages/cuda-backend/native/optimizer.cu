// What the optimizer needs beside AdamW (adamw.cu): the norm's consequences, decided on the device, and random initial values.
#include <cmath>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "../../fp8-kernels/native/philox.h"
#include "context.h"
#include "formats.h"
#include "scaling.h"

namespace fp8lm {

namespace {

__global__ void clipControlKernel(Ptr<float> control, Ptr<const float> sums, int64_t count, double maxNorm) {
  beginKernel();
  FP8_SHARED(float, part, kThreads);
  double total = 0.0;
  // In the order of the parameters, so that the norm has the same bits everywhere.
  for (int64_t begin = 0; begin < count; begin += kThreads) {
    if (begin + threadIdx.x < count) part[threadIdx.x] = sums[begin + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int k = 0; k < kThreads && begin + k < count; k++) total += double(float(part[k]));
    __syncthreads();
  }
  if (threadIdx.x > 0) return;
  const double norm = ::sqrt(total);
  const bool skip = magnitude(float(norm)) >= 0x7f800000u;
  control[0] = maxNorm > 0.0 && norm > maxNorm ? float(maxNorm / (norm + 1e-6)) : 1.0f;
  control[1] = float(norm);
  control[2] = skip ? 1.0f : 0.0f;
  if (!skip) control[3] += 1.0f;
}

__global__ void __launch_bounds__(kThreads, 3) randomNormalKernel(Ptr<float> y, int64_t n, float std, PhiloxKey key, uint64_t stream, int64_t offset) {
  beginKernel();
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const PhiloxWords w = philox(key, uint64_t(offset + i), stream);
    y[i] = math::mul(philoxNormal(w), std);
  }
}

}  // namespace

void clip_control(const Tensor& control, const Tensor& sums, int64_t count, double max_norm) {
  launch("clip_control", clipControlKernel, dim3(1), dim3(kThreads), ptr<float>(control, "control"), ptr<const float>(sums, "sums"), count, max_norm);
}

void random_normal(const Tensor& y, int64_t n, double std, int64_t seed, int64_t stream, int64_t offset) {
  launch("random_normal", randomNormalKernel, dim3(blocksFor(n, kThreads * 4)), dim3(kThreads), ptr<float>(y, "y"), n, float(std), philoxKey(uint64_t(seed)),
         uint64_t(stream), offset);
}

}  // namespace fp8lm
