// device.h on a real device.
#pragma once
#include <stdexcept>
#include <string>

#include "../timing.h"

namespace fp8lm {

template <class T> using Ptr = T*;

template <class T> inline T* ptr(const Tensor& t, const char*) { return static_cast<T*>(t.data); }
inline float* scalePtr(const Tensor& t, const char*) { return t.scale; }
/// A pointer into memory of the backend's own (workspace) of `count` elements.
template <class T> inline T* rawPtr(void* data, int64_t, const char*) { return static_cast<T*>(data); }

#define FP8_SHARED(T, name, N) __shared__ T name[N]
template <class T> using Shared = T*;

template <class T> struct alignas(16) Vec {
  T v[16 / sizeof(T)];
};
template <class T> __device__ __forceinline__ Vec<T> loadVec(const T* p, int64_t i) {
  return *reinterpret_cast<const Vec<T>*>(p + i);
}
template <class T> __device__ __forceinline__ void storeVec(T* p, int64_t i, const Vec<T>& v) {
  *reinterpret_cast<Vec<T>*>(p + i) = v;
}

__device__ __forceinline__ unsigned atomicMaxAt(unsigned* p, int64_t i, unsigned v) { return atomicMax(p + i, v); }
__device__ __forceinline__ unsigned atomicAddAt(unsigned* p, int64_t i, unsigned v) { return atomicAdd(p + i, v); }
__device__ __forceinline__ void acquireOtherBlocks() { __threadfence(); }
/// A value that other blocks of this launch wrote: past the first-level cache.
template <class T> __device__ __forceinline__ T fromOtherBlocks(const T* p, int64_t i) { return __ldcg(p + i); }

/// d += a b, bf16 in, float32 out: a 16 x 16 by rows, b 16 x 8 by columns, d 16 x 8. Fragments as in the PTX manual
/// (mma.m16n8k16): lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
__device__ __forceinline__ void mmaBf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The b of mmaBf16 out of a shared tile whose rows run along n: rows [row, row + 16) are k, columns [column, column + 8) are n.
/// `stride` counts words of two values and is a multiple of 4.
__device__ __forceinline__ void loadTransposed(unsigned b[2], const uint32_t* tile, int row, int column, int stride) {
  const uint32_t* const at = tile + (row + int(threadIdx.x) % 16) * stride + column / 2;
  const unsigned address = unsigned(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n" : "=r"(b[0]), "=r"(b[1]) : "r"(address) : "memory");
}

cudaStream_t stream();
/// Blocks that keep the whole device busy.
unsigned deviceBlocks();
/// Ends a run of launches that a graph records; see graph.cc.
void beforeLaunch();
[[noreturn]] void throwCuda(cudaError_t error, const char* what);
inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throwCuda(error, what);
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, A&&... args) {
  beforeLaunch();
  const Timed timed(timesLaunches() ? name : "");
  kernel<<<grid, block, 0, stream()>>>(P(args)...);
  check(cudaGetLastError(), name);
}

}  // namespace fp8lm
