// Kernels that are wrong on purpose: positive controls of the simulated device. Each check must name its fault.
#include "faulty.h"

#include <stdexcept>

#include "../context.h"

namespace fp8lm {

namespace {

__global__ void outOfBoundsKernel(Ptr<float> y, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = 1.0f;  // should be <
}

__global__ void sharedBoundsKernel(Ptr<float> y) {
  FP8_SHARED(float, tile, 32);
  tile[threadIdx.x + 1] = 1.0f;
  y[threadIdx.x] = float(tile[threadIdx.x]);
}

__global__ void misalignedKernel(Ptr<float> y) {
  if (threadIdx.x == 0) storeVec(y, 1, Vec<float>{});
}

__global__ void divergentKernel(Ptr<float> y) {
  if (threadIdx.x < 7) __syncthreads();
  else __syncthreads();
  y[threadIdx.x] = 1.0f;
}

__global__ void leftEarlyKernel(Ptr<float> y) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  y[threadIdx.x] = 1.0f;
}

__global__ void warpLeftKernel(Ptr<float> y) {
  if (threadIdx.x == 9) return;
  y[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

/// Thread t reads what thread t + 1 wrote, with no barrier between.
__global__ void missingBarrierKernel(Ptr<float> y, bool barrier) {
  FP8_SHARED(float, tile, 64);
  tile[threadIdx.x] = float(threadIdx.x);
  if (barrier) __syncthreads();
  y[threadIdx.x] = float(tile[(threadIdx.x + 1) % 64]);
}

/// Every block adds to the same element: the sum is right in any order of whole threads, and still a race.
__global__ void lostUpdateKernel(Ptr<float> y) {
  if (threadIdx.x == 0) y[0] += 1.0f;
}

/// The same in whole, with atomics and the last block's ticket: no race.
__global__ void countedKernel(Ptr<float> y, Ptr<unsigned> words) {
  if (threadIdx.x == 0) atomicAddAt(words, kSaturatedWord, 1u);
  if (!lastBlock(words + kTicket) || threadIdx.x > 0) return;
  y[0] = float(fromOtherBlocks(words, kSaturatedWord));
  words[kSaturatedWord] = 0u;
}

}  // namespace

void runFaulty(const std::string& kind) {
  const Scratch scratch(64 * sizeof(float));
  const Ptr<float> y = scratch.as<float>("y");
  if (kind == "out of bounds") launch("faulty", outOfBoundsKernel, dim3(2), dim3(64), y, int64_t(64));
  else if (kind == "shared bounds") launch("faulty", sharedBoundsKernel, dim3(1), dim3(32), y);
  else if (kind == "misaligned") launch("faulty", misalignedKernel, dim3(1), dim3(32), y);
  else if (kind == "divergent") launch("faulty", divergentKernel, dim3(1), dim3(32), y);
  else if (kind == "left early") launch("faulty", leftEarlyKernel, dim3(1), dim3(32), y);
  else if (kind == "warp left") launch("faulty", warpLeftKernel, dim3(1), dim3(32), y);
  else if (kind == "missing barrier") launch("faulty", missingBarrierKernel, dim3(1), dim3(64), y, false);
  else if (kind == "barrier") launch("faulty", missingBarrierKernel, dim3(1), dim3(64), y, true);
  else if (kind == "lost update") launch("faulty", lostUpdateKernel, dim3(4), dim3(32), y);
  else if (kind == "counted") launch("faulty", countedKernel, dim3(4), dim3(32), y, words());
  else throw std::invalid_argument("no faulty kernel is called " + kind);
}

}  // namespace fp8lm
