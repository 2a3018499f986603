// What a kernel of this package is written against. Two builds share every .cu file:
//
//   nvcc        the names below are thin wrappers of CUDA's own
//   FP8_SIM     sim/device.h: the same names on a simulated device, built by a host C++ compiler (see sim/sim.h)
//
//   Ptr<T>               a pointer into a tensor: T* on a device; in the simulator it knows the tensor's bounds and name
//   ptr<T>(tensor, "x")  makes one, on the host; an absent tensor gives a null pointer
//   FP8_SHARED(T, a, N)  an array of N in the block's shared memory, indexed a[i]
//   FP8_DYNAMIC_SHARED(T, a)  the array of as many bytes as launchShared is told
//   launch(name, kernel, grid, block, args...)   queues a kernel on the backend's stream
//   beginKernel()        the first statement of every kernel: before it nothing of a tensor may be read or written
//   loadVec, storeVec    16 bytes at once, at an address that must be aligned to 16
//   loadWords, storeWords  the same as 32-bit words: 8 bytes, or a multiple of 16
//   bytePermute          four of eight bytes
//   residentBlocks       blocks of a kernel that the device holds at once
//   storeShared          8 or 16 bytes to shared memory, words or floats
//   SharedAt, loadShared a place in shared memory, and what lies there, read anew each time
//   readAnew(x)          x, in a way that nothing worked out of it is kept in a register
//   copyAsync, endCopies, waitCopies   16 bytes to shared memory while the thread goes on
//   atomicMaxAt, atomicAddAt   on element i of a Ptr; float atomics are left out on purpose: their order, and so the last bit
//                        of their sum, would change from run to run
//   lastOfJob, lastBlock(ticket)    true in all threads of the block that comes last: it sees what all others wrote
//   lastThread(ticket)   true in thread 0 of the block that comes last: it sees what all other threads 0 wrote
//   fastExp2, nearlySqrt, nearlyRecip   one instruction each: nearly 2^x, square root, 1 / x
//   bf16Pair, halfPair, fp8Pair   two casts at once, bits as in float8.h; decodeHalves, decodeFp8Pair: back
//   maxMagnitude(a, x)   max(a, |x|), NaN if either is
//   maxMagnitudes(a, x)  the same of two bf16 each
//   mmaBf16, mmaBf16Short  one tensor core product of a warp, 16 x 8 x 16 or 16 x 8 x 8
//
// Kernels never use a raw T* from a tensor, so that the simulator sees every access.
#pragma once
#include <cstdint>

#include "../../fp8-kernels/native/tensor.h"

#if defined(FP8_SIM)
#include "sim/device.h"
#else
#include <cuda_runtime.h>

#include "cuda/device.h"
#endif

#include "../../fp8-kernels/native/float8.h"
#include "../../fp8-kernels/native/math.h"

namespace fp8lm {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// Blocks of `perBlock` items that cover `items`, at most what keeps the device busy: kernels stride over the rest.
inline unsigned blocksFor(int64_t items, int64_t perBlock) {
  const int64_t needed = (items + perBlock - 1) / perBlock, most = int64_t(deviceBlocks());
  return unsigned(needed < 1 ? 1 : needed < most ? needed : most);
}

/// The same for one kernel, whose blocks are all resident at once: no last round of few blocks.
template <class K> inline unsigned blocksOf(K kernel, int64_t items, int64_t perBlock, unsigned threads) {
  const int64_t needed = (items + perBlock - 1) / perBlock, most = int64_t(residentBlocks(kernel, threads));
  return unsigned(needed < 1 ? 1 : needed < most ? needed : most);
}

__device__ __forceinline__ int laneOf() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warpOf() { return int(threadIdx.x) / kWarp; }

template <class T> __device__ __forceinline__ T warpSum(T v) {
  for (int d = kWarp / 2; d > 0; d /= 2) v += __shfl_xor_sync(kAllLanes, v, d);
  return v;
}
template <class T> __device__ __forceinline__ T warpMax(T v) {
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, v, d);
    v = other > v ? other : v;
  }
  return v;
}

enum class Reduce { sum, max };

/// The sum or the maximum over the block's threads, in every thread. All threads call it; blockDim.x is a multiple of 32.
template <Reduce how, class T> __device__ __forceinline__ T blockReduce(T v) {
  FP8_SHARED(T, parts, kWarp);
  const int warps = int(blockDim.x) / kWarp;
  v = how == Reduce::sum ? warpSum(v) : warpMax(v);
  __syncthreads();  // the last call's readers are done
  if (laneOf() == 0) parts[warpOf()] = v;
  __syncthreads();
  T total = parts[0];
  for (int w = 1; w < warps; w++) {
    const T other = parts[w];
    total = how == Reduce::sum ? T(total + other) : other > total ? other : total;
  }
  return total;
}

/// Adds `done` to a job's ticket; true, in all threads, if that makes `all`: then what the other blocks wrote before is
/// visible, and the ticket is back at 0 for the next kernel.
__device__ __forceinline__ bool lastOfJob(Ptr<unsigned> ticket, unsigned done, unsigned all) {
  FP8_SHARED(unsigned, last, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last[0] = atomicAddAt(ticket, 0, done) + done == all ? 1u : 0u;
  __syncthreads();
  if (last[0] == 0u) return false;
  acquireOtherBlocks();
  if (threadIdx.x == 0) ticket[0] = 0u;
  return true;
}

/// The same where each block of the launch takes one ticket: true in the block that comes last.
__device__ __forceinline__ bool lastBlock(Ptr<unsigned> ticket) { return lastOfJob(ticket, 1u, gridDim.x * gridDim.y * gridDim.z); }

/// The same for what each block's thread 0 wrote alone: true in that of the last block. No barrier, and one fence a block: a fence of
/// all threads waits for everything the block has stored.
__device__ __forceinline__ bool lastThread(Ptr<unsigned> ticket) {
  if (threadIdx.x > 0) return false;
  __threadfence();
  if (atomicAddAt(ticket, 0, 1u) + 1u != gridDim.x * gridDim.y * gridDim.z) return false;
  acquireOtherBlocks();
  ticket[0] = 0u;
  return true;
}

}  // namespace fp8lm
