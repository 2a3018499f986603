// Products by cuBLASLt. It thinks in columns: our row-major c [m, n] is its column-major [n, m], so its A is our b and its B
// our a.
//
// FP8 (compute capability 8.9 or newer) is taken in the TN layout alone: both operands contiguous along k. Forward products
// are; the others need a transposed copy of one or both, a byte read and a byte written an element. Dims that are no
// multiples of 16, or addresses, are made so by a padded copy, and the result is cut out. Scales are read on the device.
// Fast accumulation (fewer bits between promotions) in forward products alone: those of two e4m3 tensors, as gradients are
// e5m2. Everything else goes as BF16: operands of other dtypes are decoded first, and their scales multiply alpha.
//
// Rows that do not begin at multiples of 16 bytes (a vocabulary of 50257) take the library to a tenth of its speed, so large
// products pad them too.
//
// The bias is float32; the library adds one of the output's dtype, so that for a bf16 output it is rounded to bf16 first.
#include <map>
#include <optional>
#include <tuple>

#include "cublaslt.h"
#include "gemm.h"
#include "gemm_passes.h"

namespace fp8lm {

namespace {

constexpr size_t kWorkspace = size_t(32) << 20;  // what NVIDIA recommends for Hopper

lt::DataType libraryType(DType t) {
  switch (t) {
    case DType::f32: return lt::kF32;
    case DType::bf16: return lt::kBF16;
    case DType::f16: return lt::kF16;
    case DType::e4m3: return lt::kE4M3;
    default: return lt::kE5M2;
  }
}

bool isFp8(DType t) { return t == DType::e4m3 || t == DType::e5m2; }
int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

/// An operand as the library takes it, with what keeps it alive.
struct Operand {
  const void* data;
  DType dtype;
  int64_t rows, cols, ld;  // column-major
  bool transposed;
};

/// The result, column-major.
struct Target {
  void* data;
  DType dtype;
  int64_t ld;
};

/// What goes into a product beside its operands.
struct Extras {
  float alpha, beta;
  /// On the device, for alpha and beta that only it knows: see Factor.
  const float* factors = nullptr;
  const float *scaleA = nullptr, *scaleB = nullptr;  // of FP8 operands
  const void* bias = nullptr;
  DType biasType = DType::f32;
  bool fast = false;
};

using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, int, int, int, int, int, int, int, int>;

struct State {
  lt::Handle handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, lt::HeuristicResult> known;
};

State* state() {
  static State* s = []() -> State* {
    const lt::Library& l = lt::library();
    if (!l.error.empty()) return nullptr;
    auto* made = new State;
    device();
    if (l.create(&made->handle) != lt::kSuccess) return nullptr;
    check(cudaMalloc(&made->workspace, kWorkspace), "cudaMalloc");
    return made;
  }();
  return s;
}

int alignmentOf(const void* p) {
  int a = 256;
  while (reinterpret_cast<uintptr_t>(p) % uintptr_t(a)) a /= 2;
  return a;
}

/// For profiles: dtypes and shape, in rows as our caller counts them.
std::string timedName(DType a, DType b, DType c, int64_t m, int64_t n, int64_t k, int flags) {
  static const char* const names[] = {"f32", "bf16", "f16", "e4m3", "e5m2"};
  const auto name = [](DType t) { return std::string(t <= DType::e5m2 ? names[int(t)] : "?"); };
  return "gemm " + name(b) + " x " + name(a) + " to " + name(c) + " " + std::to_string(n) + " x " + std::to_string(m) + " x " + std::to_string(k) + (flags & 1 ? " bias" : "") +
         (flags & 2 ? " fast" : "");
}

/// Differs between algorithms, so between kernels of the library.
uintptr_t identityOf(const lt::Algo& algo) {
  uintptr_t h = 1;
  for (const uint64_t word : algo.data) h = (h ^ uintptr_t(word)) * uintptr_t(0x9e3779b97f4a7c15u);
  return h;
}

/// One call of the library. @returns false if it has no algorithm for it
bool multiply(const Operand& a, const Operand& b, const Target& c, int64_t m, int64_t n, int64_t k, const Extras& extras) {
  State* const s = state();
  if (!s) return false;
  const lt::Library& l = lt::library();
  struct Objects {
    const lt::Library& l;
    lt::Desc desc = nullptr;
    lt::Layout a = nullptr, b = nullptr, c = nullptr;
    lt::Preference preference = nullptr;
    ~Objects() {
      if (desc) l.descDestroy(desc);
      for (lt::Layout x : {a, b, c})
        if (x) l.layoutDestroy(x);
      if (preference) l.preferenceDestroy(preference);
    }
  } o{l};
  const auto need = [](lt::Status status, const char* what) {
    if (status != lt::kSuccess) throw std::runtime_error(std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(int(status)));
  };
  need(l.descCreate(&o.desc, lt::kCompute32F, lt::kF32), "MatmulDescCreate");
  const auto set = [&](lt::DescAttribute attribute, const auto& value) { need(l.descSet(o.desc, attribute, &value, sizeof value), "MatmulDescSetAttribute"); };
  set(lt::kPointerMode, int32_t(extras.factors ? lt::kDevice : lt::kHost));
  set(lt::kTransA, int32_t(a.transposed ? lt::kT : lt::kN));
  set(lt::kTransB, int32_t(b.transposed ? lt::kT : lt::kN));
  if (extras.scaleA) set(lt::kAScalePointer, extras.scaleA);
  if (extras.scaleB) set(lt::kBScalePointer, extras.scaleB);
  if (extras.fast) set(lt::kFastAccum, int8_t(1));
  if (extras.bias) {
    set(lt::kEpilogue, int32_t(lt::kEpilogueBias));
    set(lt::kBiasPointer, extras.bias);
    set(lt::kBiasDataType, int32_t(libraryType(extras.biasType)));
  }
  need(l.layoutCreate(&o.a, libraryType(a.dtype), uint64_t(a.rows), uint64_t(a.cols), a.ld), "MatrixLayoutCreate");
  need(l.layoutCreate(&o.b, libraryType(b.dtype), uint64_t(b.rows), uint64_t(b.cols), b.ld), "MatrixLayoutCreate");
  need(l.layoutCreate(&o.c, libraryType(c.dtype), uint64_t(m), uint64_t(n), c.ld), "MatrixLayoutCreate");

  const int alignments[3] = {alignmentOf(a.data), alignmentOf(b.data), alignmentOf(c.data)};
  const int flags = int(extras.bias != nullptr) + 2 * int(extras.fast) + 4 * int(extras.scaleA != nullptr) + 8 * int(extras.factors != nullptr);
  const Key key{m, n, k, a.ld, b.ld, c.ld, int(a.dtype), int(b.dtype), int(c.dtype), a.transposed, b.transposed, flags, alignments[0], alignments[1], alignments[2]};
  auto found = s->known.find(key);
  if (found == s->known.end()) {
    need(l.preferenceCreate(&o.preference), "MatmulPreferenceCreate");
    const auto prefer = [&](lt::PreferenceAttribute attribute, const auto& value) { need(l.preferenceSet(o.preference, attribute, &value, sizeof value), "MatmulPreferenceSetAttribute"); };
    prefer(lt::kMaxWorkspaceBytes, uint64_t(kWorkspace));
    prefer(lt::kMinAlignmentA, uint32_t(alignments[0]));
    prefer(lt::kMinAlignmentB, uint32_t(alignments[1]));
    prefer(lt::kMinAlignmentC, uint32_t(alignments[2]));
    prefer(lt::kMinAlignmentD, uint32_t(alignments[2]));
    lt::HeuristicResult result{};
    int count = 0;
    const lt::Status status = l.heuristic(s->handle, o.desc, o.a, o.b, o.c, o.c, o.preference, 1, &result, &count);
    result.state = status == lt::kSuccess && count > 0 ? result.state : lt::kNotSupported;
    found = s->known.emplace(key, result).first;
  }
  if (found->second.state != lt::kSuccess) return false;
  beforeLaunch(identityOf(found->second.algo));
  const Timed timed(timesLaunches() ? timedName(a.dtype, b.dtype, c.dtype, m, n, k, flags) : std::string());
  const float* const alpha = extras.factors ? extras.factors + kAlpha : &extras.alpha;
  const float* const beta = extras.factors ? extras.factors + kBeta : &extras.beta;
  need(l.matmul(s->handle, o.desc, alpha, a.data, o.a, b.data, o.b, beta, c.data, o.c, c.data, o.c, &found->second.algo, s->workspace, kWorkspace, stream()), "Matmul");
  return true;
}

/// FP8 operands contiguous along k, with dims and address that are multiples of 16: as it is, or a copy.
struct Fp8Rows {
  Scratch copy;
  const void* data;
  Fp8Rows(const Tensor& t, int64_t rows, int64_t k, bool alongRows, const char* name)
      : copy(isReady(t, rows, k, alongRows) ? 0 : size_t(padded(rows) * padded(k))), data(t.data) {
    if (isReady(t, rows, k, alongRows)) return;
    data = copy.data();
    const int64_t outRows = padded(rows), outCols = padded(k);
    const dim3 grid(unsigned((outCols + kSide - 1) / kSide), unsigned((outRows + kSide - 1) / kSide)), block(kTransposeThreads);
    if (alongRows && rows % kSquare == 0 && isAligned(t)) launchTranspose("gemm: transpose", copy.as<uint8_t>("transposed copy"), ptr<const uint8_t>(t, name), k, rows, outRows, outCols);
    else if (alongRows) launch("gemm: transpose", copyPaddedKernel<true>, grid, block, copy.as<uint8_t>("transposed copy"), ptr<const uint8_t>(t, name), k, rows, outRows, outCols);
    else launch("gemm: pad", copyPaddedKernel<false>, grid, block, copy.as<uint8_t>("padded copy"), ptr<const uint8_t>(t, name), rows, k, outRows, outCols);
  }
  static bool isReady(const Tensor& t, int64_t rows, int64_t k, bool alongRows) { return !alongRows && rows % 16 == 0 && k % 16 == 0 && isAligned(t); }
};

/// Factors and bias as the library reads them. `fold`: the operands' scales are part of alpha.
struct Prepared {
  Scratch factors, rounded;
  Prepared(const Gemm& g, float beta, bool fold, bool withScale, bool roundBias) : factors(kFactors * sizeof(float)), rounded(roundBias ? size_t(g.n) * 2 : 0) {
    const auto scaleIf = [](bool wanted, const Tensor& t, const char* name) { return wanted ? scalePtr(t, name) : decltype(scalePtr(t, name))(nullptr); };
    launch("gemm: prepare", prepareKernel, dim3(roundBias ? unsigned((g.n + kThreads - 1) / kThreads) : 1), dim3(roundBias ? kThreads : kWarp), factors.as<float>("factors"), g.alpha, beta,
           scaleIf(fold, g.a, "a's scale block"), scaleIf(fold, g.b, "b's scale block"), scaleIf(withScale, g.c, "c's scale block"),
           roundBias ? rounded.as<uint16_t>("rounded bias") : decltype(rounded.as<uint16_t>(""))(nullptr), ptr<const float>(g.bias, "bias"), g.n);
  }
  const float* data() const { return static_cast<const float*>(factors.data()); }
};

dim3 rowBlocks(int64_t rows, int64_t perRow) { return dim3(unsigned((perRow + kThreads - 1) / kThreads), unsigned(rows < 65535 ? rows : 65535)); }

/// From what the library wrote, in rows of `ld` of the dtype X, to c.
template <DType X> void finishProduct(const Gemm& g, const Scratch& result, int64_t ld, bool withBias) {
  withOneOf<DType::f32, DType::bf16, DType::f16>(g.c.dtype, [&](auto d) {
    constexpr DType C = decltype(d)::value;
    launch("gemm: finish", finishProductKernel<C, X>, rowBlocks(g.m, (g.n + 3) / 4), dim3(kThreads), ptr<Code<C>>(g.c, "c"), result.as<const Code<X>>("wide product"),
           withBias ? ptr<const float>(g.bias, "bias") : decltype(ptr<const float>(g.bias, ""))(nullptr), scalePtr(g.c, "c's scale block"), g.accumulate, g.m, g.n, ld);
  });
}

bool fp8Product(const Gemm& g) {
  const int64_t m = padded(g.m), n = padded(g.n), k = padded(g.k);
  const bool inside = g.bias && g.c.dtype == DType::bf16;  // the library adds the bias
  const bool direct = m == g.m && n == g.n && isAligned(g.c) && (!g.bias || inside);
  const Fp8Rows a(g.a, g.m, g.k, g.transA, "a"), b(g.b, g.n, g.k, !g.transB, "b");
  const Scratch wide(direct ? 0 : size_t(m * n) * sizeof(float));
  Extras extras;
  extras.alpha = g.alpha;
  extras.beta = direct && g.accumulate ? 1.0f : 0.0f;
  // The library's A is our b.
  if (g.b.scale) extras.scaleA = g.b.scale + kScaleInv;
  if (g.a.scale) extras.scaleB = g.a.scale + kScaleInv;
  const bool deviceAlpha = direct && g.c.scale;
  std::optional<Prepared> prepared;
  if (deviceAlpha || (direct && inside)) prepared.emplace(g, extras.beta, false, direct, direct && inside);
  if (deviceAlpha) extras.factors = prepared->data();
  if (direct && inside) extras.bias = prepared->rounded.data(), extras.biasType = DType::bf16;
  extras.fast = g.a.dtype == DType::e4m3 && g.b.dtype == DType::e4m3 && !g.accumulate && !g.transA && g.transB;
  const Target target{direct ? g.c.data : wide.data(), direct ? g.c.dtype : DType::f32, n};
  const bool done = multiply({b.data, g.b.dtype, k, n, k, true}, {a.data, g.a.dtype, k, m, k, false}, target, n, m, k, extras);
  if (done && !direct) finishProduct<DType::f32>(g, wide, n, true);
  return done;
}

/// An operand in bf16 (or f32 where the product is): itself, or a decoded copy.
struct PlainOperand {
  Scratch copy;
  const void* data;
  PlainOperand(const Tensor& t, int64_t n, bool asIs, const char* name) : copy(asIs ? 0 : size_t(n) * 2), data(t.data) {
    if (asIs) return;
    data = copy.data();
    withAny(t.dtype, [&](auto d) {
      constexpr DType X = decltype(d)::value;
      launch("gemm: to bf16", toBF16Kernel<X>, groupBlocks(n), dim3(kThreads), output<DType::bf16>(copy.tensor(DType::bf16), "bf16 copy"), input<X>(t, name), n);
    });
  }
};

/// Products worth a copy of an operand.
constexpr int64_t kWorthPadding = int64_t(1) << 15;

/// A matrix [rows, cols], its rows made longer so that each begins at a multiple of 16 bytes, or left as it is.
struct AlignedRows {
  Scratch copy;
  const void* data;
  int64_t ld;
  AlignedRows(const void* from, DType dtype, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols)
      : copy(rows == outRows && cols == outCols ? 0 : size_t(outRows * outCols * bytesOf(dtype))), data(from), ld(outCols) {
    if (rows == outRows && cols == outCols) return;
    data = copy.data();
    if (dtype == DType::f32) run<float>(from, rows, cols, outRows, outCols);
    else run<uint16_t>(from, rows, cols, outRows, outCols);
  }
  template <class T> void run(const void* from, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
    launch("gemm: pad", padRowsKernel<T>, rowBlocks(outRows, outCols * int64_t(sizeof(T)) / 16), dim3(kThreads), copy.as<T>("padded copy"),
           rawPtr<const T>(const_cast<void*>(from), rows * cols, "operand"), rows, cols, outRows, outCols);
  }
};

bool plainProduct(const Gemm& g) {
  const DType type = g.f32 ? DType::f32 : DType::bf16;
  if (g.f32 && (g.a.dtype != DType::f32 || g.b.dtype != DType::f32)) return false;
  const PlainOperand plainA(g.a, g.m * g.k, g.a.dtype == type, "a"), plainB(g.b, g.n * g.k, g.b.dtype == type, "b");
  // Sizes that lie along rows in memory, rounded up; m does so in a transposed a alone, and there the product is split instead.
  const int64_t unit = 16 / bytesOf(type);
  const bool worth = g.m * g.n * g.k >= kWorthPadding;
  const auto up = [&](int64_t size, bool alongRows) { return worth && alongRows ? (size + unit - 1) / unit * unit : size; };
  const int64_t k = up(g.k, !g.transA || g.transB), n = up(g.n, true), lda = g.transA ? up(g.m, true) : k;
  const AlignedRows a(plainA.data, type, g.transA ? g.k : g.m, g.transA ? g.m : g.k, g.transA ? k : g.m, lda);
  const AlignedRows b(plainB.data, type, g.transB ? g.n : g.k, g.transB ? g.k : g.n, g.transB ? n : k, g.transB ? k : n);

  const bool storable = g.c.dtype == type || (g.c.dtype == DType::f32 && !g.f32);
  const bool direct = storable && n == g.n;
  const bool half = !direct && g.c.dtype == DType::bf16 && type == DType::bf16 && !g.bias && !g.accumulate;  // rounded once, by the library
  const DType written = direct ? g.c.dtype : half ? DType::bf16 : DType::f32;
  const Scratch result(direct ? 0 : size_t(g.m * n * bytesOf(written)));
  const bool inside = direct && g.bias, roundBias = inside && g.c.dtype == DType::bf16;
  Extras extras;
  extras.alpha = g.alpha;
  extras.beta = direct && g.accumulate ? 1.0f : 0.0f;
  const bool deviceAlpha = g.a.scale || g.b.scale;
  std::optional<Prepared> prepared;
  if (deviceAlpha || roundBias) prepared.emplace(g, extras.beta, true, false, roundBias);
  if (deviceAlpha) extras.factors = prepared->data();
  if (inside) extras.bias = roundBias ? prepared->rounded.data() : g.bias.data, extras.biasType = roundBias ? DType::bf16 : DType::f32;

  // Column-major: our b [k, n] is its [n, k]; stored transposed it is [k, n], to be transposed back.
  const int64_t bytes = bytesOf(type), whole = worth && g.transA ? g.m / unit * unit : g.m;
  void* const out = direct ? g.c.data : result.data();
  const auto rows = [&](int64_t first, int64_t count) {
    const Operand left{b.data, type, g.transB ? k : n, g.transB ? n : k, b.ld, g.transB};
    const char* const from = static_cast<const char*>(a.data) + (g.transA ? first : first * lda) * bytes;
    const Operand right{from, type, g.transA ? count : k, g.transA ? k : count, lda, g.transA};
    return multiply(left, right, {static_cast<char*>(out) + first * n * bytesOf(written), written, n}, n, count, k, extras);
  };
  // The smaller part first: where it is refused, nothing was queued.
  const bool done = (whole == g.m || rows(whole, g.m - whole)) && (whole == 0 || rows(0, whole));
  if (!done || direct) return done;
  if (half) finishProduct<DType::bf16>(g, result, n, false);
  else finishProduct<DType::f32>(g, result, n, true);
  return true;
}

}  // namespace

bool gemmByLibrary(const Gemm& g) {
  if (!state()) return false;
  const bool fp8 = isFp8(g.a.dtype) && isFp8(g.b.dtype) && !g.f32 && device().fp8() && !(g.a.dtype == DType::e5m2 && g.b.dtype == DType::e5m2);
  if (fp8 && fp8Product(g)) return gemmCounts().fp8++, true;
  if (plainProduct(g)) return gemmCounts().library++, true;
  return false;
}

}  // namespace fp8lm
