// What only sm_90a has, thinly wrapped: barriers of shared memory that count bytes, the bulk copy engine, and the products of a
// warpgroup (four warps, 64 rows) whose operands stay in shared memory. See the PTX manual: mbarrier, cp.async.bulk.tensor,
// wgmma.mma_async. Functions are empty on other chips: no kernel calls them there.
//
// A box is 64 rows of 64 two-byte values, 8 KB, its 16-byte pieces swizzled over 128 bytes as the copy engine writes them:
// piece p of row r lies at r * 128 + (p ^ r % 8) * 16. It starts at a multiple of 1024 bytes.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FP8_HOPPER 1
#else
#define FP8_HOPPER 0
#endif

namespace fp8lm {
namespace hopper {

constexpr int kBoxRows = 64, kBoxColumns = 64, kBoxBytes = kBoxRows * kBoxColumns * 2;

__device__ __forceinline__ uint32_t sharedAddress(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

#if FP8_HOPPER
/// True in one lane of a warp, all of which call it. Unlike a comparison of indices it tells the assembler that one lane is left,
/// and the operands of copies go to uniform registers without a loop over lanes.
__device__ __forceinline__ bool isElected() {
  uint32_t yes;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(yes));
  return yes != 0;
}
__device__ __forceinline__ void initBarrier(uint32_t bar, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory"); }
/// After the barriers of a block are initialized, before __syncthreads().
__device__ __forceinline__ void publishBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void arrive(uint32_t bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
/// Arrives, and expects so many bytes of copies besides.
__device__ __forceinline__ void arriveExpecting(uint32_t bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of this parity (the first phase has parity 0).
__device__ __forceinline__ void waitBarrier(uint32_t bar, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra end;\n"
      "bra again;\n"
      "end:\n"
      "}\n" ::"r"(bar), "r"(parity) : "memory");
}

/// Whether that phase has ended, without waiting for it.
__device__ __forceinline__ bool testBarrier(uint32_t bar, int parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(done)
      : "r"(bar), "r"(parity)
      : "memory");
  return done != 0;
}

/// Copies the box at (column, head, batch, row) of a tensor map; rows and columns beyond the ends become 0.
__device__ __forceinline__ void copyBox(uint32_t to, const CUtensorMap& map, uint32_t bar, int column, int head, int batch, int row) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5,%6}], [%2];" ::"r"(to), "l"(&map), "r"(bar), "r"(column), "r"(head), "r"(batch), "r"(row) : "memory");
}
/// Copies bytes, a multiple of 16, both addresses too.
__device__ __forceinline__ void copyBytes(uint32_t to, const void* from, int bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(bar) : "memory");
}
__device__ __forceinline__ void prefetchMap(const CUtensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

/// Before the first product after registers that it uses were written.
__device__ __forceinline__ void beginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most N committed groups are under way.
template <int N> __device__ __forceinline__ void waitProducts() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
/// Keeps the compiler from moving reads or writes of an accumulator over this point.
template <int N> __device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> __device__ __forceinline__ void hold(unsigned (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(d[i])::"memory");
}

/// Descriptor of an operand in boxes. `next` is the distance in bytes of the boxes that follow each other along the columns,
/// used by transposed operands of more than 64 columns. Its low word holds the address over 16: offsets add to it.
struct Operand {
  uint32_t low;
  __device__ __forceinline__ explicit Operand(uint32_t address, int next = kBoxBytes) : low(address >> 4 | uint32_t(next >> 4) << 16) {}
  __device__ __forceinline__ uint64_t at(int offset) const { return uint64_t(low + uint32_t(offset >> 4)) | uint64_t(0x40000000u | 1024 >> 4) << 32; }
};

#define FP8_ACC8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FP8_ACC32(d) FP8_ACC8(d, 0), FP8_ACC8(d, 8), FP8_ACC8(d, 16), FP8_ACC8(d, 24)
#define FP8_ACC64(d) FP8_ACC32(d), FP8_ACC8(d, 32), FP8_ACC8(d, 40), FP8_ACC8(d, 48), FP8_ACC8(d, 56)
#define FP8_NAMES32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define FP8_NAMES64                                                                                                                      \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34," \
  "%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

/// d = [add] d + a b: a 64 x 16, b 16 x N, both in shared memory; N = 2 * accumulators. An operand's rows are m or n, its columns
/// k, but with `transposed` b's rows are k. Accumulators as those of mmaBf16: lane l of warp w has rows 16 w + l / 4 and 8 below,
/// columns 8 j + 2 (l % 4) and the next in d[4 j ...].
template <bool transposed> __device__ __forceinline__ void product(float (&d)[32], uint64_t a, uint64_t b, int add) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " FP8_NAMES32 ", %32, %33, p, 1, 1, 0, %35;}\n"
               : FP8_ACC32(d)
               : "l"(a), "l"(b), "r"(add), "n"(transposed));
}
template <bool transposed> __device__ __forceinline__ void product(float (&d)[64], uint64_t a, uint64_t b, int add) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " FP8_NAMES64 ", %64, %65, p, 1, 1, 0, %67;}\n"
               : FP8_ACC64(d)
               : "l"(a), "l"(b), "r"(add), "n"(transposed));
}
/// The same with a in registers, fragments as mmaBf16 has them.
template <bool transposed> __device__ __forceinline__ void product(float (&d)[32], const unsigned* a, uint64_t b, int add) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " FP8_NAMES32 ", {%32,%33,%34,%35}, %36, p, 1, 1, %38;}\n"
               : FP8_ACC32(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(transposed));
}
template <bool transposed> __device__ __forceinline__ void product(float (&d)[64], const unsigned* a, uint64_t b, int add) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " FP8_NAMES64 ", {%64,%65,%66,%67}, %68, p, 1, 1, %70;}\n"
               : FP8_ACC64(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(transposed));
}

/// Fragment of the warp's 16 rows of a box, columns [16 step, 16 step + 16), as the a of product().
__device__ __forceinline__ void loadFragment(unsigned a[4], uint32_t box, int step) {
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) % 128 / 32 * 16 + lane % 16, piece = 2 * step + lane / 16;
  const uint32_t at = box + row * 128 + (piece ^ row % 8) * 16;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}
#endif

}  // namespace hopper
}  // namespace fp8lm
