// The GEMM driver: which thread computes what, which block is packed when, and where sums wait.
//
//   a grid of threads over C; each thread, for its rows and columns:
//     for each block of N  (NC columns)     the B block KC x NC fills 0.6 of the L2 cache (2 MB: 384 columns)
//       for each block of K  (KC)
//         pack the B block into the thread's own buffer        once for each element, straight into the L2 that uses it
//         for each A panel  (mr x KC)       24 KB, streamed from L2 while the next one is prefetched
//           for each B panel  (KC x nr)     147 KB, streamed from L2
//             micro-kernel: mr x nr tile, sums so far added from `partial` if this is not the first K block
//             last K block: epilogue from the tile to C
//
// A is packed in one of two ways, whichever costs less (planFor):
//   shared: all threads pack all of A once into one buffer beyond L2, a barrier, and no more barriers. M is cut into
//     chunks so that the buffer stays within kChunkBytes.
//   own: a thread packs the 16 or 64 rows it is about to use, into a buffer that stays in L2, again for each block of N.
//     Where it helps, their source is prefetched during the micro-kernel calls before. Best when N is narrow; no barrier.
//
// KC is 768 steps at most, balanced over the blocks: two operands stream from L2 at 19 bytes a cycle, which the core
// sustains, and long panels make the tile's load, store and epilogue rare. Blocks small enough for L1 were no faster.
// Between K blocks raw float sums wait in `partial`, tile after tile; a tile is touched once in KC * mr * nr
// multiply-adds, so it may live in any cache.
//
// Few rows (m <= 4) skip all this: see gemm_skinny.h.
#include "gemm.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "gemm_kernels.h"
#include "isa.h"
#include "threads.h"

namespace fp8lm {
namespace {

constexpr int64_t kMaxSteps = 768, kChunkBytes = int64_t(64) << 20, kHugePage = int64_t(2) << 20;
constexpr int64_t kSerialWork = 1 << 18;  // multiply-adds below which waking other threads does not pay
constexpr int kSkinnyRows = 4;
// Packing one element costs as much time as this many multiply-adds (measured, AVX-512): into L2, into the shared buffer
// beyond L2, into a buffer that is reused at once.
constexpr double kCostB = 14, kCostSharedA = 26, kCostOwnA = 10;
constexpr int64_t kTileFloats = 512;  // room for the largest mr x nr

constexpr int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A thread's own memory, kept from call to call and only ever grown. Mapped afresh, so that the kernel can back all of
/// it with huge pages: scattered small pages collide in the L2 cache (see docs/log.md).
class Buffer {
 public:
  ~Buffer() { drop(); }
  template <class T> T* atLeast(int64_t count) {
    const size_t bytes = size_t(ceilDiv(count * int64_t(sizeof(T)), kHugePage) * kHugePage);
    if (bytes > size) {
      drop();
      mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (mapped == MAP_FAILED) {
        mapped = nullptr;
        throw std::bad_alloc();
      }
      size = bytes;
      data = reinterpret_cast<char*>(ceilDiv(int64_t(reinterpret_cast<intptr_t>(mapped)), kHugePage) * kHugePage);
#if defined(MADV_HUGEPAGE)
      madvise(data, size, MADV_HUGEPAGE);
#endif
    }
    return reinterpret_cast<T*>(data);
  }

 private:
  void* mapped = nullptr;
  char* data = nullptr;
  size_t size = 0;
  void drop() {
    if (mapped) munmap(mapped, size + kHugePage);
    mapped = nullptr;
    size = 0;
  }
};

thread_local Buffer sharedA, ownB, ownPartial, skinnyRows, skinnySums;

int64_t l2Bytes() {
  static const int64_t bytes = [] {
    int64_t n = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    n = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return n >= (256 << 10) ? std::min<int64_t>(n, 4 << 20) : int64_t(512) << 10;
  }();
  return bytes;
}

Kind kindOf(DType t, bool computeF32) {
  switch (t) {
    case DType::f32: return computeF32 ? kF32 : kF32AsBf16;
    case DType::f16: return computeF32 ? kF16 : kF16AsBf16;
    case DType::bf16: return kBf16;
    case DType::e4m3: return kE4m3;
    case DType::e5m2: return kE5m2;
    default: throw std::invalid_argument("gemm: operand dtype " + std::to_string(int(t)) + ": expected f32, bf16, f16, e4m3 or e5m2");
  }
}

/// One operand as the packing functions see it: `mn` is the row of A or the column of B.
struct Source {
  const char* data;
  int64_t ld;
  Kind kind;
  bool alongK;

  Source(const GemmOperand& x, bool isA, bool computeF32)
      : data(static_cast<const char*>(x.data)), ld(x.ld), kind(kindOf(x.dtype, computeF32)), alongK(x.transposed != isA) {}
  const char* at(int64_t mn, int64_t k) const { return data + (alongK ? mn * ld + k : k * ld + mn) * bytesOf(kind); }
};

/// max |C| over threads, as bits: unsigned order is the order of magnitudes, with NaN above infinity.
struct Amax {
  std::atomic<uint32_t> bits{0};
  void add(uint32_t x) {
    uint32_t now = bits.load(std::memory_order_relaxed);
    while (x > now && !bits.compare_exchange_weak(now, x)) {}
  }
  float value() const {
    const uint32_t b = std::min(bits.load(), 0x7f800000u);
    float x;
    __builtin_memcpy(&x, &b, 4);
    return x;
  }
};

struct Plan {
  int m, n;     // threads over rows and over columns of C; m * n <= threads
  bool shareA;  // A is packed once for all threads, else by each thread when it needs it
};

struct Problem {
  const GemmKernels& t;
  const GemmArgs& g;
  Source a, b;
  Epilogue out;
  int64_t steps, kBlocks;        // panel steps (dwords) in a K block; number of K blocks
  int64_t mPanels, nPanels;      // of the whole problem
  int64_t chunkPanels;           // A panels in a chunk of M
  int64_t blockPanels;           // B panels in a block of N
  uint32_t* packedA = nullptr;
  Barrier barrier;
  Amax amax;

  Problem(const GemmKernels& kernels, const GemmArgs& args)
      : t(kernels), g(args), a(args.a, true, args.computeF32), b(args.b, false, args.computeF32) {
    const float sa = args.a.scaleInv ? *args.a.scaleInv : 1.0f, sb = args.b.scaleInv ? *args.b.scaleInv : 1.0f;
    out = {args.c, args.cType, args.ldc, args.bias, args.alpha * sa * sb, args.accumulate};
    const int64_t allSteps = ceilDiv(args.k, t.kUnit);
    kBlocks = std::max<int64_t>(1, ceilDiv(allSteps, kMaxSteps));
    steps = ceilDiv(ceilDiv(allSteps, kBlocks), 4) * 4;  // the micro-kernel is unrolled by 4
    kBlocks = std::max<int64_t>(1, ceilDiv(allSteps, std::max<int64_t>(steps, 1)));
    mPanels = ceilDiv(args.m, t.mr);
    nPanels = ceilDiv(args.n, t.nr);
    const int64_t panelBytes = std::max<int64_t>(1, kBlocks * steps * t.mr * 4);
    chunkPanels = std::min(mPanels, std::max<int64_t>(16, kChunkBytes / panelBytes));
    chunkPanels += chunkPanels % 2;  // packing fills panels in pairs
    blockPanels = std::max<int64_t>(2, int64_t(double(l2Bytes()) * 0.6) / std::max<int64_t>(1, steps * t.nr * 4));
  }

  int64_t kBegin(int64_t block) const { return block * steps * t.kUnit; }
  int64_t kCount(int64_t block) const { return std::min(g.k - kBegin(block), steps * t.kUnit); }
  int64_t stepCount(int64_t block) const { return ceilDiv(kCount(block), t.kUnit); }

  /// The plan with the least work for the busiest thread, in multiply-adds for each k: its tiles, the columns of B it
  /// packs, and its share of A packed once for all, or all its rows for each of its blocks of N.
  Plan planFor(int threads) const {
    Plan plan{};
    double best = 0;
    for (int tm = 1; tm <= threads; ++tm) {
      const int tn = threads / tm;
      const int64_t panels = ceilDiv(nPanels, tn), blocks = ceilDiv(panels, blockPanels);
      const double rows = double(ceilDiv(mPanels, tm)) * t.mr, columns = double(panels) * t.nr;
      const double base = columns * (rows + kCostB);
      for (const bool shareA : {true, false}) {
        const double cost = base + (shareA ? double(mPanels * t.mr) / threads * kCostSharedA : rows * double(blocks) * kCostOwnA);
        if (best > 0 && cost >= best) continue;
        best = cost;
        plan = {tm, tn, shareA};
      }
    }
    return plan;
  }

  /// Start of a panel of A within the chunk's buffer: block after block of K, each with all panels of the chunk.
  uint32_t* panelA(int64_t block, int64_t panel) const {
    return packedA + block * steps * chunkPanels * t.mr + panel * stepCount(block) * t.mr;
  }

  /// This thread's share of packing panels [first, first + count) of A.
  void packChunk(int64_t first, int64_t count, int thread, int threads) const {
    const int64_t pairs = ceilDiv(count, 2), units = pairs * kBlocks;
    int64_t unit = splitBegin(units, thread, threads);
    const int64_t end = splitBegin(units, thread + 1, threads);
    while (unit < end) {
      const int64_t block = unit / pairs, pair = unit % pairs, n = std::min(end - unit, pairs - pair);
      const int64_t row = (first + pair * 2) * t.mr, rows = std::min(n * 2 * t.mr, g.m - row);
      t.packA[a.kind][a.alongK](a.at(row, kBegin(block)), a.ld, rows, kCount(block), panelA(block, pair * 2));
      unit += n;
    }
  }

  /// Shared A: the next panel, in as many calls as it takes.
  Ahead panelAhead(const uint32_t* panel, int64_t count, int64_t call) const {
    const int64_t bytes = count * t.mr * 4, step = count / 4 * 64;
    return {reinterpret_cast<const char*>(panel) + bytes + std::min(call * step, bytes), 64, 16 * 64};
  }

  /// Own A along K: the source of the next group of rows (panel `next` on), so that packing finds it in L2. Not along M:
  /// there every line is on another page, and the page walks cost more than they save (measured).
  Ahead sourceAhead(int64_t next, int64_t block, int64_t call) const {
    const char* base = a.at(std::min(next, mPanels - 1) * t.mr, kBegin(block));
    if (!a.alongK) return {base, 0, 0};
    const int64_t groups = stepCount(block) / 4 / 16 * call, bytes = bytesOf(a.kind);
    return {base + std::min(groups * 64, kCount(block) * bytes), a.ld * bytes, 64};
  }

  /// Rows [m0, m1) x columns [n0, n1) of C, in panels; `first` is the first panel of the shared A, if there is one.
  void compute(bool shareA, int64_t first, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    alignas(64) float tile[kTileFloats];
    const int64_t tileSize = t.mr * t.nr;
    const int64_t widest = ceilDiv(n1 - n0, ceilDiv(n1 - n0, blockPanels));
    // A source that runs along M has its k rows pages apart: taking 64 columns of each amortises the TLB miss.
    const int64_t group = shareA ? m1 - m0 : (a.alongK ? 16 : 64) / t.mr;
    uint32_t* packedB = ownB.atLeast<uint32_t>((widest * t.nr + (shareA ? 0 : group * t.mr)) * steps + 64);
    uint32_t* ownA = packedB + widest * t.nr * steps;
    float* partial = kBlocks > 1 ? ownPartial.atLeast<float>((m1 - m0) * widest * tileSize) : nullptr;
    uint32_t most = 0;
    for (int64_t nb = n0; nb < n1; nb += widest) {
      const int64_t panels = std::min(widest, n1 - nb), col = nb * t.nr, cols = std::min(panels * t.nr, g.n - col);
      for (int64_t block = 0; block < kBlocks; ++block) {
        const int64_t count = stepCount(block);
        const bool last = block + 1 == kBlocks;
        t.packB[b.kind][b.alongK](b.at(col, kBegin(block)), b.ld, cols, kCount(block), packedB);
        for (int64_t i0 = m0; i0 < m1; i0 += group) {
          const int64_t i1 = std::min(i0 + group, m1);
          const uint32_t* panel = shareA ? panelA(block, i0 - first) : ownA;
          if (!shareA)
            t.packA[a.kind][a.alongK](a.at(i0 * t.mr, kBegin(block)), a.ld, std::min(i1 * t.mr, g.m) - i0 * t.mr,
                                      kCount(block), ownA);
          for (int64_t i = i0; i < i1; ++i, panel += count * t.mr) {
            const int64_t row = i * t.mr;
            const int rows = int(std::min<int64_t>(t.mr, g.m - row));
            for (int64_t j = 0; j < panels; ++j) {
              float* sums = partial ? partial + ((i - m0) * panels + j) * tileSize : nullptr;
              t.micro(count, panel, packedB + j * count * t.nr, block > 0 ? sums : nullptr, last ? tile : sums,
                      shareA ? panelAhead(panel, count, j) : sourceAhead(i1, block, (i - i0) * panels + j));
              if (last)
                t.epilogue(out, tile, t.nr, row, col + j * t.nr, rows, std::min<int64_t>(t.nr, cols - j * t.nr),
                           g.amax ? &most : nullptr);
            }
          }
        }
      }
    }
    amax.add(most);
  }

  void work(int thread, int threads) {
    Plan plan = planFor(threads);
    if (!packedA) plan.shareA = false;  // the pool shrank between run() and here
    const int tm = thread / plan.n, tn = thread % plan.n;
    const int64_t n0 = splitBegin(nPanels, tn, plan.n), n1 = splitBegin(nPanels, tn + 1, plan.n);
    const int64_t chunk = plan.shareA ? chunkPanels : mPanels;
    for (int64_t first = 0; first < mPanels; first += chunk) {
      const int64_t count = std::min(chunk, mPanels - first);
      if (plan.shareA) {
        if (first > 0) barrier.wait(threads);
        packChunk(first, count, thread, threads);
        barrier.wait(threads);
      }
      if (tm >= plan.m) continue;
      const int64_t m0 = first + splitBegin(count, tm, plan.m), m1 = first + splitBegin(count, tm + 1, plan.m);
      if (m0 < m1 && n0 < n1) compute(plan.shareA, first, m0, m1, n0, n1);
    }
  }

  void run() {
    const int64_t multiplyAdds = g.m * g.n * std::max<int64_t>(g.k, 1);
    const int threads = int(std::max<int64_t>(1, std::min<int64_t>(numThreads(), multiplyAdds / kSerialWork)));
    if (planFor(threads).shareA) packedA = sharedA.atLeast<uint32_t>(kBlocks * steps * (chunkPanels + 1) * t.mr + 64);
    parallelRegion(threads, [this](int thread, int n) { work(thread, n); });
  }

  void runSkinny() {
    const int rows = int(g.m);
    float* decoded = skinnyRows.atLeast<float>(rows * (g.k + 16));
    float* sums = skinnySums.atLeast<float>(kSkinnyRows * g.n);
    Skinny s{};
    s.b = b.data;
    s.ld = b.ld;
    s.k = g.k;
    for (int i = 0; i < kSkinnyRows; ++i) {
      const int row = std::min(i, rows - 1);  // surplus rows repeat the last one and are dropped
      s.rows[i] = decoded + row * (g.k + 16);
      s.out[i] = sums + i * g.n;
      if (i == row) t.decode[a.kind](a.at(row, 0), a.alongK ? 1 : a.ld, g.k, decoded + row * (g.k + 16));
    }
    const SkinnyFn fn = t.skinny[b.kind][b.alongK][rows > 1];
    parallelFor(ceilDiv(g.n, 64), std::max<int64_t>(1, kSerialWork / (64 * std::max<int64_t>(g.k, 1))),
                [&](int, int64_t begin, int64_t end) {
                  const int64_t n0 = begin * 64, n1 = std::min(end * 64, g.n);
                  fn(s, n0, n1);
                  uint32_t most = 0;
                  t.epilogue(out, sums + n0, g.n, 0, n0, rows, n1 - n0, g.amax ? &most : nullptr);
                  amax.add(most);
                });
  }
};

const GemmKernels& activeKernels(bool computeF32) {
  if (const char* error = isaError()) throw std::runtime_error(error);
#if defined(__x86_64__)
  if (isa() == Isa::avx512) {
    if (preferDot() && !computeF32) return gemmAvx512Dot();
    return hasDot() ? gemmAvx512Bf16() : gemmAvx512();
  }
  if (isa() == Isa::avx2) return gemmAvx2();
#endif
  (void)computeF32;
  return gemmGeneric();
}

}  // namespace

void gemmWith(const GemmKernels& kernels, const GemmArgs& args) {
  if (args.cType != DType::f32 && args.cType != DType::bf16 && args.cType != DType::f16)
    throw std::invalid_argument("gemm: result dtype " + std::to_string(int(args.cType)) + ": expected f32, bf16 or f16");
  Problem p(kernels, args);
  if (args.m > 0 && args.n > 0) {
    if (args.m <= kSkinnyRows) p.runSkinny();
    else p.run();
  }
  if (args.amax) *args.amax = p.amax.value();
}

void gemm(const GemmArgs& args) { gemmWith(activeKernels(args.computeF32), args); }

}  // namespace fp8lm
