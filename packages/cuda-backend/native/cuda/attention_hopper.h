// What the attention kernels of Hopper share: the ring of tiles, products of whole tiles, the way results go back.
//
// A block has rows of one head, 64 a warpgroup, in shared memory behind one barrier. The tiles of the other side come through a
// ring of STAGES places that the block's warpgroups share and that nothing else ties to each other. One lane of one warp, in the
// warpgroup that has most to do, asks for the copies, while its products run: on the way from one product to the next every
// instruction of that warp delays its whole warpgroup.
#pragma once
#include <dlfcn.h>

#include "../attention.h"
#include "hopper.h"

namespace fp8lm {
namespace hopper {

using Half = uint16_t;

constexpr float kLog2e = 1.44269504f;
constexpr int kGroupThreads = 128;  // of a warpgroup

/// Shared memory of a block: a kilobyte of barriers and state (registers are short), its own boxes, the ring.
template <int STAGES, int OWN, int STAGE> struct Layout {
  static constexpr int kState = 512, kOwn = 1024, kRing = kOwn + OWN, kBytes = kRing + STAGES * STAGE;
  static_assert(kBytes <= 227 * 1024, "more shared memory than a block can have");
};

#if FP8_HOPPER
extern __shared__ __align__(1024) char dynamicShared[];

/// The same in all lanes of a warp, which the shuffle tells the compiler: products must not lie where lanes could part.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(kAllLanes, int(threadIdx.x) / kGroupThreads, 0); }

__device__ __forceinline__ int warpIndex() { return __shfl_sync(kAllLanes, int(threadIdx.x) / kWarp, 0); }

__device__ __forceinline__ int sharedInt(uint32_t at) {
  int v;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}
__device__ __forceinline__ void setSharedInt(uint32_t at, int v) { asm volatile("st.shared.s32 [%0], %1;" ::"r"(at), "r"(v) : "memory"); }

/// The barriers of a block, 8 bytes each: its own rows are there; then per place of the ring: tile g, in place g % STAGES, is
/// there; it may be overwritten.
template <int STAGES> struct Ring {
  uint32_t base;

  __device__ __forceinline__ uint32_t own() const { return base; }
  __device__ __forceinline__ uint32_t full(int g) const { return base + 16 + 16 * (g % STAGES); }
  __device__ __forceinline__ uint32_t empty(int g) const { return base + 24 + 16 * (g % STAGES); }
  /// Where the lane that loads counts the tiles it asked for.
  __device__ __forceinline__ uint32_t filled() const { return base + 240; }

  /// In one thread, before __syncthreads().
  __device__ __forceinline__ void init(int warps) const {
    initBarrier(own(), 1);
    for (int i = 0; i < STAGES; i++) {
      initBarrier(full(i), 1);
      initBarrier(empty(i), warps);
    }
    publishBarriers();
  }
  __device__ __forceinline__ void wait(int g) const { waitBarrier(full(g), g / STAGES & 1); }
  /// By each warp of the block, of each tile.
  __device__ __forceinline__ void release(int g) const {
    __syncwarp();  // the other lanes have read what they need of it
    if (laneOf() == 0) arrive(empty(g));
  }
  /// Loads the first of `all` tiles.
  template <class Load> __device__ __forceinline__ void fill(int all, Load&& load) const {
    for (int g = 0; g < STAGES && g < all; g++) load(g);
    setSharedInt(filled(), STAGES);
  }
  /// Loads more of `all` tiles into places that are free, in the lane that loads; tile `next` is what its warpgroup needs next, and
  /// only for that one it waits. The other warpgroups may still hold a tile; it may not itself hold tile next - STAGES.
  template <class Load> __device__ __forceinline__ void refill(int next, int all, Load&& load) const {
    int g = sharedInt(filled());
    for (; g < all && g < next + STAGES; g++) {
      const int parity = (g / STAGES - 1) & 1;
      if (g <= next) waitBarrier(empty(g), parity);
      else if (!testBarrier(empty(g), parity)) break;
      load(g);
    }
    setSharedInt(filled(), g);
  }
  /// Costs a look at a barrier whose phase is over. A branch like this keeps ptxas from moving the next wait for products up
  /// before arithmetic that should run beside them.
  __device__ __forceinline__ void fence() const { waitBarrier(own(), 0); }
};

__device__ __forceinline__ float quadMax(float v) {
  v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(kAllLanes, v, 2));
}
__device__ __forceinline__ float quadSum(float v) {
  v += __shfl_xor_sync(kAllLanes, v, 1);
  return v + __shfl_xor_sync(kAllLanes, v, 2);
}

/// s = a b^T over D columns; a in boxes of 64 columns that lie `nextA` bytes apart, b of `nextB`.
template <int D, int N> __device__ __forceinline__ void scores(float (&s)[N], uint32_t a, int nextA, uint32_t b, int nextB) {
  const Operand left(a), right(b);
#pragma unroll
  for (int k = 0; k < D / 16; k++) product<false>(s, left.at(k / 4 * nextA + k % 4 * 32), right.at(k / 4 * nextB + k % 4 * 32), k > 0);
}
template <int D, int N> __device__ __forceinline__ void scores(float (&s)[N], const unsigned (&a)[D / 4], uint32_t b, int nextB) {
  const Operand right(b);
#pragma unroll
  for (int k = 0; k < D / 16; k++) product<false>(s, a + 4 * k, right.at(k / 4 * nextB + k % 4 * 32), k > 0);
}
/// acc += p b over the rows of b, fragments of p in registers.
template <int N, int W> __device__ __forceinline__ void accumulate(float (&acc)[N], const unsigned (&p)[W], uint32_t b, int nextB) {
  const Operand right(b, nextB);
#pragma unroll
  for (int k = 0; k < W / 4; k++) product<true>(acc, p + 4 * k, right.at(k * 16 * 128), 1);
}
template <int D> __device__ __forceinline__ void loadFragments(unsigned (&a)[D / 4], uint32_t boxes, int next) {
#pragma unroll
  for (int k = 0; k < D / 16; k++) loadFragment(a + 4 * k, boxes + k / 4 * next, k % 4);
}
/// Zeros in registers before products that add to them.
template <int N> __device__ __forceinline__ void clear(float (&acc)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) acc[i] = 0.0f;
  hold(acc);
}

/// The first of a lane's two rows in its warpgroup's tile; the other is 8 below.
__device__ __forceinline__ int rowOfLane() { return warpOf() % 4 * 16 + laneOf() / 4; }

/// Stores the lane's rows `row` and 8 below of an accumulator of 64 x D as bf16, times a factor each. Row t starts at
/// y + t * stride. 16 bytes a lane: the lanes of a quad have words of four pieces, and trade them so that each has a whole one.
template <int N> __device__ __forceinline__ void storeRows(Half* y, int64_t stride, int row, int count, int dims, const float (&acc)[N], float upper, float lower) {
  const int own = laneOf() % 4;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float f = r ? lower : upper;
    const int t = row + 8 * r;
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
      unsigned w[4], got[4], out[4];
#pragma unroll
      for (int k = 0; k < 4; k++) w[k] = bf16Pair(acc[16 * i + 4 * k + 2 * r] * f, acc[16 * i + 4 * k + 2 * r + 1] * f);
#pragma unroll
      for (int x = 0; x < 4; x++) {  // lane `own` gives its word of piece own ^ x to that lane
        const int to = own ^ x;
        const unsigned give = to & 2 ? (to & 1 ? w[3] : w[2]) : (to & 1 ? w[1] : w[0]);
        got[x] = x ? __shfl_xor_sync(kAllLanes, give, x) : give;
      }
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int x = own ^ k;
        out[k] = x & 2 ? (x & 1 ? got[3] : got[2]) : (x & 1 ? got[1] : got[0]);
      }
      const int d = 32 * i + 8 * own;
      if (t < count && d < dims) *reinterpret_cast<uint4*>(y + t * stride + d) = make_uint4(out[0], out[1], out[2], out[3]);
    }
  }
}
#endif

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// Rows of `heads` heads in boxes of 64 x 64: coordinates column, head, batch, position. @returns false if the driver has no
/// such maps; it is loaded already, and the addon is not linked against it
inline bool mapOf(CUtensorMap* map, const Tensor& x, const AttentionShape& a, int64_t heads) {
  static const EncodeTiled encode = [] {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    return driver ? reinterpret_cast<EncodeTiled>(dlsym(driver, "cuTensorMapEncodeTiled")) : nullptr;
  }();
  const cuuint64_t width = cuuint64_t(heads * a.dims), size[4] = {cuuint64_t(a.dims), cuuint64_t(heads), cuuint64_t(a.batch), cuuint64_t(a.seq)};
  const cuuint64_t strides[3] = {cuuint64_t(a.dims) * 2, width * 2, width * cuuint64_t(a.batch) * 2};
  const cuuint32_t box[4] = {kBoxColumns, 1, 1, kBoxRows}, steps[4] = {1, 1, 1, 1};
  return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, x.data, size, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

inline bool isFor(const Tensor& qkv, const AttentionShape& a) {
  return device().major == 9 && qkv.dtype == DType::bf16 && a.dims > 32 && a.dims <= 128 && a.dims % 8 == 0 && isAligned(qkv) && a.batch * (a.heads + 2 * a.kvHeads) * ((a.seq + 63) / 64) < 1 << 30;
}

}  // namespace hopper
}  // namespace fp8lm
