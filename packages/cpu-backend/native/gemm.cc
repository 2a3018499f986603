// The GEMM driver: which thread computes what, which block is packed when, and where sums wait.
//
//   a grid of parts over C, one a thread; for the rows and columns of a part:
//     for each block of N  (NC columns)     the B block KC x NC fills 0.6 of the L2 cache (2 MB: 384 columns)
//       for each block of K  (KC)
//         pack the B block into the thread's own buffer        once for each element, straight into the L2 that uses it
//         for each A panel  (mr x KC)       24 KB, streamed from L2 while the next one is prefetched
//           for each B panel  (KC x nr)     147 KB, streamed from L2
//             micro-kernel: mr x nr tile, sums so far added from `partial` if this is not the first K block
//             last K block: epilogue from the registers to C
//
// A thread without work takes a whole block of N from another part, and at the end helps with the A panels of a block that
// another thread has packed (a Job), which it reads from there. So a part whose thread is away is done by the others.
//
// A is packed in one of two ways, whichever costs less (planFor):
//   shared: all threads pack all of A once into one buffer beyond L2, in a region of its own. M is cut into chunks so that
//     the buffer stays within kChunkBytes.
//   own: a thread packs the 16 or 64 rows it is about to use, into a buffer that stays in L2, again for each block of N.
//     Where it helps, their source is prefetched during the micro-kernel calls before. Best when N is narrow.
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
#include <atomic>
#include <cstdlib>
#include <memory>
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
constexpr int64_t kGroupWork = 1 << 22;   // multiply-adds that a thread takes of a job at once: some 40 us
constexpr int kSkinnyRows = 4;
constexpr int64_t kTileFloats = 512;  // room for the largest mr x nr
constexpr int64_t kRows = 16, kColumns = 64;  // own A is packed by so many rows, or columns of a source that runs along M

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

thread_local Buffer sharedA, ownA, ownB, ownPartial, skinnyRows, skinnySums;

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

/// A packed block of B, the rows of C that are to be multiplied by it, and how many of them are taken. Fields but `next` change
/// only while the gate is closed and nobody inside.
struct alignas(64) Job {
  Gate gate;
  std::atomic<int64_t> next{0};  // group of rows
  int64_t m0 = 0, m1 = 0, group = 0;  // A panels, and how many make a group
  int64_t col = 0, cols = 0, panels = 0;
  int64_t block = 0;  // of K
  const uint32_t* packedB = nullptr;
  float* partial = nullptr;
};

/// Rows [m0, m1) and columns [n0, n1) of C in panels; its columns are taken `widest` at a time.
struct alignas(64) Part {
  int64_t m0 = 0, m1 = 0, n0 = 0, n1 = 0, widest = 1;
  std::atomic<int64_t> next{0};
};

/// One of each for each thread, kept by the calling thread.
template <class T> T* perThread(int threads) {
  static thread_local std::unique_ptr<T[]> kept;
  static thread_local int size = 0;
  if (threads > size) kept.reset(new T[size_t(threads)]), size = threads;
  return kept.get();
}

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
  int64_t firstPanel = 0;        // of A in packedA
  int threads = 1;
  Plan plan{};
  Part* parts = nullptr;
  Job* jobs = nullptr;
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
      const double base = columns * (rows + t.packing.b);
      for (const bool shareA : {true, false}) {
        const double cost = base + (shareA ? double(mPanels * t.mr) / threads * t.packing.sharedA : rows * double(blocks) * t.packing.ownA);
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

  /// Packs the panels [firstPanel, firstPanel + count) of A into the shared buffer.
  void packChunk(int64_t count) const {
    const int64_t pairs = ceilDiv(count, 2), units = pairs * kBlocks;
    parallelFor(units, [&](int, int64_t unit, int64_t end) {
      while (unit < end) {
        const int64_t block = unit / pairs, pair = unit % pairs, n = std::min(end - unit, pairs - pair);
        const int64_t row = (firstPanel + pair * 2) * t.mr, rows = std::min(n * 2 * t.mr, g.m - row);
        t.packA[a.kind][a.alongK](a.at(row, kBegin(block)), a.ld, rows, kCount(block), panelA(block, pair * 2));
        unit += n;
      }
    });
  }

  /// Shared A: the next panel, in as many calls as it takes.
  Ahead panelAhead(const uint32_t* panel, int64_t count, int64_t call) const {
    const int64_t bytes = count * t.mr * 4, step = count / 4 * 64;
    return {reinterpret_cast<const char*>(panel) + bytes + std::min(call * step, bytes), 64, 16 * 64};
  }

  /// Own A: the source of the next group of rows (panel `next` on), so that packing finds it in L2. Along K a group is 16 rows, a
  /// line of each in turn. Along M it is a line or more of each row of k, the first line of all rows first.
  Ahead sourceAhead(int64_t next, int64_t block, int64_t call) const {
    const char* base = a.at(std::min(next, mPanels - 1) * t.mr, kBegin(block));
    const int64_t lines = stepCount(block) / 4, row = a.ld * bytesOf(a.kind);  // lines: a call fetches this many
    if (a.alongK) return {base + std::min(lines / 16 * call * 64, kCount(block) * bytesOf(a.kind)), row, 64};
    const int64_t calls = ceilDiv(kCount(block), std::max<int64_t>(1, lines));  // for a line of every row
    if (call >= calls * kColumns * bytesOf(a.kind) / 64) return {base, 0, 0};
    return {base + call / calls * 64 + call % calls * lines * row, row, 16 * row};
  }

  /// Groups of rows of a job until none is left. Several threads may be at it.
  void runGroups(Job& job) {
    alignas(64) float tile[kTileFloats];
    const int64_t tileSize = t.mr * t.nr, block = job.block, count = stepCount(block), panels = job.panels;
    const bool last = block + 1 == kBlocks, shareA = plan.shareA;
    uint32_t* const own = shareA ? nullptr : ownA.atLeast<uint32_t>(job.group * t.mr * steps + 64);
    const auto toC = t.microToC[g.cType == DType::f32 ? kCF32 : g.cType == DType::bf16 ? kCBf16 : kCF16];
    uint32_t most = 0;
    for (;;) {
      const int64_t i0 = job.m0 + job.next.fetch_add(1, std::memory_order_relaxed) * job.group;
      if (i0 >= job.m1) break;
      const int64_t i1 = std::min(i0 + job.group, job.m1);
      const uint32_t* panel = shareA ? panelA(block, i0 - firstPanel) : own;
      if (!shareA)
        t.packA[a.kind][a.alongK](a.at(i0 * t.mr, kBegin(block)), a.ld, std::min(i1 * t.mr, g.m) - i0 * t.mr, kCount(block), own);
      for (int64_t i = i0; i < i1; ++i, panel += count * t.mr) {
        const int64_t row = i * t.mr;
        const int rows = int(std::min<int64_t>(t.mr, g.m - row));
        for (int64_t j = 0; j < panels; ++j) {
          const uint32_t* const panelB = job.packedB + j * count * t.nr;
          const int64_t col = job.col + j * t.nr, cols = std::min<int64_t>(t.nr, job.cols - j * t.nr);
          float* const sums = job.partial ? job.partial + ((i - job.m0) * panels + j) * tileSize : nullptr;
          const float* const in = block > 0 ? sums : nullptr;
          const Ahead ahead = shareA ? panelAhead(panel, count, j) : sourceAhead(i1, block, (i - i0) * panels + j);
          if (!last) t.micro(count, panel, panelB, in, sums, ahead);
          else if (rows == t.mr && cols == t.nr) toC(count, panel, panelB, in, out, row, col, g.amax ? &most : nullptr, ahead);
          else {
            t.micro(count, panel, panelB, in, tile, ahead);
            t.epilogue(out, tile, t.nr, row, col, rows, cols, g.amax ? &most : nullptr);
          }
        }
      }
    }
    amax.add(most);
  }

  /// One block of N of a part, as this thread's job.
  void compute(Job& job, const Part& part, int64_t nb) {
    job.m0 = part.m0;
    job.m1 = part.m1;
    job.panels = std::min(part.widest, part.n1 - nb);
    job.col = nb * t.nr;
    job.cols = std::min(job.panels * t.nr, g.n - job.col);
    uint32_t* const packedB = ownB.atLeast<uint32_t>(part.widest * t.nr * steps + 64);
    job.packedB = packedB;
    job.partial = kBlocks > 1 ? ownPartial.atLeast<float>((part.m1 - part.m0) * part.widest * t.mr * t.nr) : nullptr;
    // A source that runs along M has its k rows pages apart: taking 64 columns of each amortises the TLB miss.
    if (plan.shareA) job.group = std::max<int64_t>(1, kGroupWork / std::max<int64_t>(1, t.mr * job.cols * steps * t.kUnit));
    else job.group = (a.alongK ? kRows : kColumns) / t.mr;
    for (int64_t block = 0; block < kBlocks; ++block) {
      t.packB[b.kind][b.alongK](b.at(job.col, kBegin(block)), b.ld, job.cols, kCount(block), packedB);
      job.block = block;
      job.next.store(0, std::memory_order_relaxed);
      job.gate.open();
      runGroups(job);
      job.gate.close();
    }
  }

  void work(int thread) {
    const int count = plan.m * plan.n;
    for (int k = 0; k < count; ++k) {
      Part& part = parts[(thread + k) % count];
      while (part.next.load(std::memory_order_relaxed) < part.n1) {
        const int64_t nb = part.next.fetch_add(part.widest, std::memory_order_relaxed);
        if (nb < part.n1) compute(jobs[thread], part, nb);
      }
    }
    for (int k = 1; k < threads; ++k) {
      Job& job = jobs[(thread + k) % threads];
      if (!job.gate.enter()) continue;
      runGroups(job);
      job.gate.leave();
    }
  }

  /// Cuts the panels [firstPanel, firstPanel + count) of A into the plan's parts.
  void makeParts(int64_t count) {
    for (int p = 0; p < plan.m * plan.n; ++p) {
      Part& part = parts[p];
      const int tm = p / plan.n, tn = p % plan.n;
      part.m0 = firstPanel + splitBegin(count, tm, plan.m);
      part.m1 = firstPanel + splitBegin(count, tm + 1, plan.m);
      part.n0 = splitBegin(nPanels, tn, plan.n);
      part.n1 = part.m0 < part.m1 ? splitBegin(nPanels, tn + 1, plan.n) : part.n0;
      part.widest = std::max<int64_t>(1, ceilDiv(part.n1 - part.n0, std::max<int64_t>(1, ceilDiv(part.n1 - part.n0, blockPanels))));
      part.next.store(part.n0, std::memory_order_relaxed);
    }
  }

  void run() {
    const int64_t multiplyAdds = g.m * g.n * std::max<int64_t>(g.k, 1);
    threads = int(std::max<int64_t>(1, std::min<int64_t>(numThreads(), multiplyAdds / kSerialWork)));
    plan = planFor(threads);
    parts = perThread<Part>(threads);
    jobs = perThread<Job>(threads);
    const int64_t chunk = plan.shareA ? chunkPanels : mPanels;
    if (plan.shareA) packedA = sharedA.atLeast<uint32_t>(kBlocks * steps * (chunkPanels + 1) * t.mr + 64);
    for (firstPanel = 0; firstPanel < mPanels; firstPanel += chunk) {
      const int64_t count = std::min(chunk, mPanels - firstPanel);
      if (plan.shareA) packChunk(count);
      makeParts(count);
      parallelRegion(threads, [this](int thread) { work(thread); });
    }
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
