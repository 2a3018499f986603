// device.h on a real device.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

#include "../../../fp8-kernels/native/float8.h"
#include "../timing.h"

namespace fp8lm {

template <class T> using Ptr = T*;

template <class T> inline T* ptr(const Tensor& t, const char*) { return static_cast<T*>(t.data); }
inline float* scalePtr(const Tensor& t, const char*) { return t.scale; }
/// A pointer into memory of the backend's own (workspace) of `count` elements.
template <class T> inline T* rawPtr(void* data, int64_t, const char*) { return static_cast<T*>(data); }

#define FP8_SHARED(T, name, N) __shared__ alignas(16) T name[N]
template <class T> using Shared = T*;
#define FP8_DYNAMIC_SHARED(T, name) extern __shared__ __align__(16) T name[]

template <class T> struct alignas(16) Vec {
  T v[16 / sizeof(T)];
};
template <class T> __device__ __forceinline__ Vec<T> loadVec(const T* p, int64_t i) {
  return *reinterpret_cast<const Vec<T>*>(p + i);
}
template <class T> __device__ __forceinline__ void storeVec(T* p, int64_t i, const Vec<T>& v) {
  *reinterpret_cast<Vec<T>*>(p + i) = v;
}
/// The same 16 bytes as four words: 16-bit and 8-bit values would take a register each.
template <class T> __device__ __forceinline__ Vec<uint32_t> loadWords(const T* p, int64_t i) {
  return *reinterpret_cast<const Vec<uint32_t>*>(p + i);
}
template <class T> __device__ __forceinline__ void storeWords(T* p, int64_t i, const Vec<uint32_t>& w) {
  *reinterpret_cast<Vec<uint32_t>*>(p + i) = w;
}

/// W words (2, or a multiple of 4) from element i on, at an address aligned to as many bytes, at most 16.
template <int W, class T> __device__ __forceinline__ void loadWords(const T* p, int64_t i, uint32_t (&w)[W]) {
  if constexpr (W == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(p + i);
    w[0] = v.x, w[1] = v.y;
  } else {
#pragma unroll
    for (int k = 0; k < W; k += 4) {
      const uint4 v = reinterpret_cast<const uint4*>(p + i)[k / 4];
      w[k] = v.x, w[k + 1] = v.y, w[k + 2] = v.z, w[k + 3] = v.w;
    }
  }
}
template <int W, class T> __device__ __forceinline__ void storeWords(T* p, int64_t i, const uint32_t (&w)[W]) {
  if constexpr (W == 2) *reinterpret_cast<uint2*>(p + i) = make_uint2(w[0], w[1]);
  else {
#pragma unroll
    for (int k = 0; k < W; k += 4) reinterpret_cast<uint4*>(p + i)[k / 4] = make_uint4(w[k], w[k + 1], w[k + 2], w[k + 3]);
  }
}

/// Four or two words to shared memory at once; i is a multiple of as many.
__device__ __forceinline__ void storeShared(uint32_t* p, int i, const uint32_t (&w)[4]) { *reinterpret_cast<uint4*>(p + i) = make_uint4(w[0], w[1], w[2], w[3]); }
__device__ __forceinline__ void storeShared(uint32_t* p, int i, const uint32_t (&w)[2]) { *reinterpret_cast<uint2*>(p + i) = make_uint2(w[0], w[1]); }
__device__ __forceinline__ void storeShared(float* p, int i, const float (&v)[4]) { *reinterpret_cast<float4*>(p + i) = make_float4(v[0], v[1], v[2], v[3]); }

/// An element of a shared array as a place that takes one register: of an array the compiler works out the address at each access.
/// What lies i elements on is read anew each time, for words that are cheaper to read again than to keep.
template <class T> struct SharedAt {
  unsigned address;
};
template <class T> __device__ __forceinline__ SharedAt<T> sharedAt(T* array, int i) {
  SharedAt<T> p;
  asm("mov.u32 %0, %1;\n" : "=r"(p.address) : "r"(unsigned(__cvta_generic_to_shared(array + i))));
  return p;
}
__device__ __forceinline__ float loadShared(SharedAt<float> p, int i) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(v) : "r"(p.address + 4u * i) : "memory");
  return v;
}
__device__ __forceinline__ void storeShared(SharedAt<float> p, int i, float v) { asm volatile("st.shared.f32 [%0], %1;\n" ::"r"(p.address + 4u * i), "f"(v) : "memory"); }
/// Two neighbours at once, at a multiple of 8 bytes.
__device__ __forceinline__ void loadShared(SharedAt<float> p, int i, float (&v)[2]) {
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];\n" : "=f"(v[0]), "=f"(v[1]) : "r"(p.address + 4u * i) : "memory");
}
__device__ __forceinline__ void storeShared(SharedAt<float> p, int i, const float (&v)[2]) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};\n" ::"r"(p.address + 4u * i), "f"(v[0]), "f"(v[1]) : "memory");
}
/// 16 bytes.
__device__ __forceinline__ void loadShared(SharedAt<uint32_t> p, int i, uint32_t (&w)[4]) {
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];\n" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "r"(p.address + 4u * i) : "memory");
}
/// The same value, of which the compiler knows nothing: what is worked out of it is worked out each time, and takes no register between.
__device__ __forceinline__ unsigned readAnew(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}
/// 16 bytes from memory to shared memory, without a register between. The copies that a thread asked for before endCopies are a group;
/// waitCopies waits until at most N of its groups are on their way. Other threads see what has come after a barrier.
template <class T> __device__ __forceinline__ void copyAsync(SharedAt<uint32_t> to, int i, const T* from, int64_t k) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to.address + 4u * i), "l"(from + k) : "memory");
}
__device__ __forceinline__ void endCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int N> __device__ __forceinline__ void waitCopies() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory"); }

/// Bytes 0 to 3 are a's, 4 to 7 b's; each nibble of the selector picks one.
__device__ __forceinline__ uint32_t bytePermute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

__device__ __forceinline__ unsigned atomicMaxAt(unsigned* p, int64_t i, unsigned v) { return atomicMax(p + i, v); }
__device__ __forceinline__ unsigned atomicAddAt(unsigned* p, int64_t i, unsigned v) { return atomicAdd(p + i, v); }
__device__ __forceinline__ void acquireOtherBlocks() { __threadfence(); }
/// A value that other blocks of this launch wrote: past the first-level cache.
template <class T> __device__ __forceinline__ T fromOtherBlocks(const T* p, int64_t i) { return __ldcg(p + i); }

/// 2^x, relative error 2^-22, results below the normal range 0.
__device__ __forceinline__ float fastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
/// Square root and 1 / x, relative error 2^-22; numbers below the normal range count as 0.
__device__ __forceinline__ float nearlySqrt(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float nearlyRecip(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
/// a b + c, rounded once.
__device__ __forceinline__ float fusedMulAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
/// sqrt(x), correctly rounded, for x in [2^-100, 2^126]: what __fsqrt_rn does there, without its branch for all others, which keeps
/// neighbouring elements from being worked on together.
__device__ __forceinline__ float sqrtInRange(float x) {
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;\n" : "=f"(r) : "f"(x));
  const float root = __fmul_rn(x, r);
  return __fmaf_rn(__fmaf_rn(-root, root, x), __fmul_rn(r, 0.5f), root);
}
/// a / b, correctly rounded, for b in [2^-30, 2^30] and |a| in [2^-80, 2^40] or 0: likewise.
__device__ __forceinline__ float divInRange(float a, float b) {
  float r = nearlyRecip(b);
  r = __fmaf_rn(r, __fmaf_rn(-b, r, 1.0f), r);
  float q = __fmul_rn(a, r);
  q = __fmaf_rn(r, __fmaf_rn(-b, q, a), q);
  q = __fmaf_rn(r, __fmaf_rn(-b, q, a), q);
  return copysignf(q, a);  // of a 0 the corrections lose the sign
}
/// max(a, |x|); NaN if either is.
__device__ __forceinline__ float maxMagnitude(float a, float x) {
  float y;
  asm("{.reg .f32 m; abs.f32 m, %2; max.NaN.f32 %0, %1, m;}\n" : "=f"(y) : "f"(a), "f"(x));
  return y;
}
/// The same of each half of two words of bf16, the first one no negative numbers; a NaN is 0x7fff then.
__device__ __forceinline__ uint32_t maxMagnitudes(uint32_t a, uint32_t x) {
  uint32_t y;
  asm("{.reg .b32 m; abs.bf16x2 m, %2; max.NaN.bf16x2 %0, %1, m;}\n" : "=r"(y) : "r"(a), "r"(x));
  return y;
}
/// Two bf16, rounded to nearest even: `low` in the low half.
__device__ __forceinline__ uint32_t bf16Pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/// Two f16 to float32, exactly.
__device__ __forceinline__ void decodeHalves(uint32_t w, float* v) {
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}\n" : "=f"(v[0]), "=f"(v[1]) : "r"(w));
}
/// Two f16, rounded to nearest even; beyond the range its end, NaN stays NaN.
__device__ __forceinline__ uint32_t halfPair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/// Two FP8 in the low half of a word to float32, exactly.
template <bool e4m3> __device__ __forceinline__ void decodeFp8Pair(uint32_t w, float* v) {
#if __CUDA_ARCH__ >= 890
  uint32_t halves;
  if constexpr (e4m3) asm("{.reg .b16 s; cvt.u16.u32 s, %1; cvt.rn.f16x2.e4m3x2 %0, s;}\n" : "=r"(halves) : "r"(w));
  else asm("{.reg .b16 s; cvt.u16.u32 s, %1; cvt.rn.f16x2.e5m2x2 %0, s;}\n" : "=r"(halves) : "r"(w));
  decodeHalves(halves, v);
#else
  for (int k = 0; k < 2; k++) v[k] = e4m3 ? decodeE4M3(uint8_t(w >> 8 * k)) : decodeE5M2(uint8_t(w >> 8 * k));
#endif
}
/// Two FP8, rounded to nearest even; beyond the range its end, NaN stays NaN.
template <bool e4m3> __device__ __forceinline__ uint32_t fp8Pair(float low, float high) {
#if __CUDA_ARCH__ >= 890
  uint32_t pair;
  if constexpr (e4m3) asm("{.reg .b16 s; cvt.rn.satfinite.e4m3x2.f32 s, %2, %1; cvt.u32.u16 %0, s;}\n" : "=r"(pair) : "f"(low), "f"(high));
  else asm("{.reg .b16 s; cvt.rn.satfinite.e5m2x2.f32 s, %2, %1; cvt.u32.u16 %0, s;}\n" : "=r"(pair) : "f"(low), "f"(high));
  return pair;
#else
  return e4m3 ? uint32_t(encodeE4M3(low)) | uint32_t(encodeE4M3(high)) << 8 : uint32_t(encodeE5M2(low)) | uint32_t(encodeE5M2(high)) << 8;
#endif
}

/// d += a b, bf16 in, float32 out: a 16 x 16 by rows, b 16 x 8 by columns, d 16 x 8. Fragments as in the PTX manual
/// (mma.m16n8k16): lane l holds rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
__device__ __forceinline__ void mmaBf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The same with 8 columns of a and 8 rows of b (mma.m16n8k8).
__device__ __forceinline__ void mmaBf16Short(float d[4], const unsigned a[2], unsigned b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

/// Four 8 x 8 matrices of two-byte values out of a shared tile (ldmatrix.x4). Lane l points at the 16 bytes of row l % 8 of matrix
/// l / 8, from word `at` on; in r[m] it gets columns 2 (l % 4) and the next of row l / 4 of matrix m.
__device__ __forceinline__ void loadMatrices(unsigned r[4], const uint32_t* tile, int at) {
  const unsigned address = unsigned(__cvta_generic_to_shared(tile + at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
/// The same of each matrix's transpose: rows 2 (l % 4) and the next of column l / 4.
__device__ __forceinline__ void loadTransposed(unsigned r[4], const uint32_t* tile, int at) {
  const unsigned address = unsigned(__cvta_generic_to_shared(tile + at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

/// Waits until all earlier kernels are done and their writes can be seen: see launchShared.
__device__ __forceinline__ void beginKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/// Dynamic shared memory that a block gets for the asking: of 48 KB, what a kernel's static arrays leave at least.
constexpr size_t kSharedWithoutAsking = 32 << 10;

cudaStream_t stream();
/// Blocks that keep the whole device busy.
unsigned deviceBlocks();
/// Blocks of this kernel that the device holds at once; with dynamic shared memory 0 where a block needs more than there is.
unsigned residentBlocks(const void* kernel, unsigned threads, size_t sharedBytes);
template <class... P> unsigned residentBlocks(void (*kernel)(P...), unsigned threads, size_t sharedBytes = 0) {
  return residentBlocks(reinterpret_cast<const void*>(kernel), threads, sharedBytes);
}
/// Before anything is queued on the stream: sends what is held back, and opens a graph where launches are gathered into them.
/// `what` tells kernels apart; see graph.cu.
void beforeLaunch(uintptr_t what);
[[noreturn]] void throwCuda(cudaError_t error, const char* what);
inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throwCuda(error, what);
}

/// Whether launches overlap: from compute capability 9.0 on, for kernels compiled for it, outside of graphs.
bool launchesOverlap(const void* kernel);

/// Queues a kernel, with dynamic shared memory, by programmatic dependent launch where there is such a thing: its blocks get their
/// places as soon as the last one of the kernel before has ended, while the memory settles, and wait in beginKernel. A step of
/// thousands of short kernels saves a microsecond each. They could have their places earlier (griddepcontrol.launch_dependents),
/// but then as many of them as fit meet on the multiprocessors that are free first, and that costs more than it saves.
template <class... P, class... A>
void launchShared(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t sharedBytes, A&&... args) {
  beforeLaunch(reinterpret_cast<uintptr_t>(kernel));
  const Timed timed(timesLaunches() ? name : "");
  if (sharedBytes > kSharedWithoutAsking) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(sharedBytes)), name);
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = sharedBytes, config.stream = stream();
  config.attrs = &overlap, config.numAttrs = launchesOverlap(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, P(args)...), name);
}
template <class... P, class... A> void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, A&&... args) {
  launchShared(name, kernel, grid, block, 0, std::forward<A>(args)...);
}

}  // namespace fp8lm
