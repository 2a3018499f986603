// Products by cuBLASLt. It thinks in columns: our row-major c [m, n] is its column-major [n, m], so its A is our b and its B
// our a.
//
// FP8 (compute capability 8.9 or newer) is taken in the TN layout alone: both operands contiguous along k. Forward products
// are; the others need a transposed copy of one or both, a byte read and a byte written an element. Dims that are no
// multiples of 16, or addresses, are made so by a padded copy, and the result is cut out. Scales are read on the device.
// Fast accumulation (fewer bits between promotions) in forward products alone: those of two e4m3 tensors, as gradients are
// e5m2. Everything else goes as BF16: operands of other dtypes are decoded first, and their scales multiply alpha.
//
// The bias is float32 while the library adds a bf16 or f32 one by the output's dtype. Where it would round the bias, the
// product goes to float32 first and a pass of ours adds and rounds once.
#include <map>
#include <tuple>

#include "cublaslt.h"
#include "gemm.h"
#include "map.h"

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

/// out[0] = alpha * scales (the ones given), out[1] = beta.
__global__ void factorsKernel(Ptr<float> out, float alpha, float beta, Ptr<const float> a, Ptr<const float> b, Ptr<const float> c) {
  if (threadIdx.x > 0) return;
  float f = alpha;
  if (a) f = math::mul(f, a[kScaleInv]);
  if (b) f = math::mul(f, b[kScaleInv]);
  if (c) f = math::mul(f, c[kScale]);
  out[0] = f;
  out[1] = beta;
}

constexpr int kSide = 64, kTransposeThreads = 256;

/// y [outRows, outCols] = x, or its transpose, with zeros around it. Tiles of 64 x 64 bytes go through shared memory.
template <bool transposed>
__global__ void __launch_bounds__(kTransposeThreads, 4) copyPaddedKernel(Ptr<uint8_t> y, Ptr<const uint8_t> x, int64_t rows, int64_t cols, int64_t outRows, int64_t outCols) {
  FP8_SHARED(uint8_t, tile, kSide * (kSide + 4));
  const int64_t outRow = int64_t(blockIdx.y) * kSide, outCol = int64_t(blockIdx.x) * kSide;
  const int64_t inRow = transposed ? outCol : outRow, inCol = transposed ? outRow : outCol;
  const int lane = int(threadIdx.x) % kSide, first = int(threadIdx.x) / kSide;
  for (int r = first; r < kSide; r += kTransposeThreads / kSide)
    tile[r * (kSide + 4) + lane] = inRow + r < rows && inCol + lane < cols ? uint8_t(x[(inRow + r) * cols + inCol + lane]) : uint8_t(0);
  __syncthreads();
  for (int r = first; r < kSide; r += kTransposeThreads / kSide) {
    if (outRow + r >= outRows || outCol + lane >= outCols) continue;
    y[(outRow + r) * outCols + outCol + lane] = uint8_t(transposed ? tile[lane * (kSide + 4) + r] : tile[r * (kSide + 4) + lane]);
  }
}

/// The stored values as bf16, without the scale.
template <DType X> __global__ void __launch_bounds__(kThreads, 3) toBF16Kernel(Output<DType::bf16> y, Input<X> x, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * kGroup;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kGroup; i < n; i += stride) {
    const int count = n - i < kGroup ? int(n - i) : kGroup;
    float v[kGroup];
    uint16_t c[kGroup];
    x.load(i, count, 1.0f, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) c[k] = encodeBF16(v[k]);
    y.store(i, count, c);
  }
}

/// c (+)= the float32 result [m, n] in rows of `ld`, plus bias, in c's dtype.
template <DType C>
__global__ void __launch_bounds__(kThreads, 3) finishProductKernel(Ptr<Code<C>> c, Ptr<const float> x, Ptr<const float> bias, Ptr<const float> block, bool accumulate, int64_t m, int64_t n, int64_t ld) {
  const int64_t count = m * n, stride = int64_t(gridDim.x) * blockDim.x;
  const float scale = block ? float(block[kScale]) : 1.0f;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    float v = x[i / n * ld + i % n];
    if (bias) v = math::add(v, bias[i % n]);
    if constexpr (C == DType::f16) v = math::mul(v, scale);
    if (accumulate) v = math::add(v, Form<C>::decode(c[i]));
    if constexpr (C == DType::f16) c[i] = encodeF16(v);
    else c[i] = Form<C>::encode(v);
  }
}

/// An operand as the library takes it, with what keeps it alive.
struct Operand {
  const void* data;
  DType dtype;
  int64_t rows, cols, ld;  // column-major
  bool transposed;
};

using Key = std::tuple<int64_t, int64_t, int64_t, int, int, int, int, int, int, int, int, int>;

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

/// One call of the library. @returns false if it has no algorithm for it
bool multiply(const Operand& a, const Operand& b, void* c, DType cType, int64_t m, int64_t n, int64_t k, const float* factors, const Tensor& bias, const float* scaleA, const float* scaleB, bool fast) {
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
  set(lt::kPointerMode, int32_t(lt::kDevice));
  set(lt::kTransA, int32_t(a.transposed ? lt::kT : lt::kN));
  set(lt::kTransB, int32_t(b.transposed ? lt::kT : lt::kN));
  if (scaleA) set(lt::kAScalePointer, scaleA);
  if (scaleB) set(lt::kBScalePointer, scaleB);
  if (fast) set(lt::kFastAccum, int8_t(1));
  if (bias) {
    const float* const data = bias.as<float>();
    set(lt::kEpilogue, int32_t(lt::kEpilogueBias));
    set(lt::kBiasPointer, data);
    set(lt::kBiasDataType, int32_t(lt::kF32));
  }
  need(l.layoutCreate(&o.a, libraryType(a.dtype), uint64_t(a.rows), uint64_t(a.cols), a.ld), "MatrixLayoutCreate");
  need(l.layoutCreate(&o.b, libraryType(b.dtype), uint64_t(b.rows), uint64_t(b.cols), b.ld), "MatrixLayoutCreate");
  need(l.layoutCreate(&o.c, libraryType(cType), uint64_t(m), uint64_t(n), m), "MatrixLayoutCreate");

  const int alignments[3] = {alignmentOf(a.data), alignmentOf(b.data), alignmentOf(c)};
  const Key key{m, n, k, int(a.dtype), int(b.dtype), int(cType), a.transposed, b.transposed, bool(bias) + 2 * fast + 4 * (scaleA != nullptr), alignments[0], alignments[1], alignments[2]};
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
  beforeLaunch();
  const Timed timed(timesLaunches() ? timedName(a.dtype, b.dtype, cType, m, n, k, int(bool(bias)) + 2 * int(fast)) : std::string());
  need(l.matmul(s->handle, o.desc, factors, a.data, o.a, b.data, o.b, factors + 1, c, o.c, c, o.c, &found->second.algo, s->workspace, kWorkspace, stream()), "Matmul");
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
    if (alongRows) launch("gemm: transpose", copyPaddedKernel<true>, grid, block, copy.as<uint8_t>("transposed copy"), ptr<const uint8_t>(t, name), k, rows, outRows, outCols);
    else launch("gemm: pad", copyPaddedKernel<false>, grid, block, copy.as<uint8_t>("padded copy"), ptr<const uint8_t>(t, name), rows, k, outRows, outCols);
  }
  static bool isReady(const Tensor& t, int64_t rows, int64_t k, bool alongRows) { return !alongRows && rows % 16 == 0 && k % 16 == 0 && isAligned(t); }
};

/// What the library writes: c itself where that is exactly what is wanted, else float32 [rows, ld] for finishProduct.
struct Result {
  bool direct;
  Scratch wide;
  Result(const Gemm& g, bool direct_, int64_t rows, int64_t ld) : direct(direct_), wide(direct_ ? 0 : size_t(rows * ld) * sizeof(float)) { (void)g; }
};

void finishProduct(const Gemm& g, const Scratch& wide, int64_t ld) {
  withOneOf<DType::f32, DType::bf16, DType::f16>(g.c.dtype, [&](auto d) {
    constexpr DType C = decltype(d)::value;
    launch("gemm: finish", finishProductKernel<C>, dim3(blocksFor(g.m * g.n, kThreads * 4)), dim3(kThreads), ptr<Code<C>>(g.c, "c"), wide.as<float>("wide product"),
           ptr<const float>(g.bias, "bias"), scalePtr(g.c, "c's scale block"), g.accumulate, g.m, g.n, ld);
  });
}

bool fp8Product(const Gemm& g) {
  const int64_t m = padded(g.m), n = padded(g.n), k = padded(g.k);
  const bool direct = m == g.m && n == g.n && isAligned(g.c) && !g.bias;
  const Fp8Rows a(g.a, g.m, g.k, g.transA, "a"), b(g.b, g.n, g.k, !g.transB, "b");
  const Result result(g, direct, m, n);
  const Scratch factors(2 * sizeof(float));
  launch("gemm: factors", factorsKernel, dim3(1), dim3(kWarp), factors.as<float>("factors"), g.alpha, direct && g.accumulate ? 1.0f : 0.0f, nullptr, nullptr,
         direct ? scalePtr(g.c, "c's scale block") : decltype(scalePtr(g.c, ""))(nullptr));
  const bool fast = g.a.dtype == DType::e4m3 && g.b.dtype == DType::e4m3 && !g.accumulate && !g.transA && g.transB;
  const bool done = multiply({b.data, g.b.dtype, k, n, k, true}, {a.data, g.a.dtype, k, m, k, false}, direct ? g.c.data : result.wide.data(), direct ? g.c.dtype : DType::f32, n, m, k,
                             static_cast<const float*>(factors.data()), Tensor{}, g.b.scale ? g.b.scale + kScaleInv : nullptr, g.a.scale ? g.a.scale + kScaleInv : nullptr, fast);
  if (done && !direct) finishProduct(g, result.wide, n);
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

bool plainProduct(const Gemm& g) {
  const DType type = g.f32 ? DType::f32 : DType::bf16;
  if (g.f32 && (g.a.dtype != DType::f32 || g.b.dtype != DType::f32)) return false;
  const bool direct = g.c.dtype == type || (g.c.dtype == DType::f32 && !g.f32) ? !g.bias || g.c.dtype == DType::f32 : false;
  const PlainOperand a(g.a, g.m * g.k, g.a.dtype == type, "a"), b(g.b, g.n * g.k, g.b.dtype == type, "b");
  const Result result(g, direct, g.m, g.n);
  const Scratch factors(2 * sizeof(float));
  launch("gemm: factors", factorsKernel, dim3(1), dim3(kWarp), factors.as<float>("factors"), g.alpha, direct && g.accumulate ? 1.0f : 0.0f, scalePtr(g.a, "a's scale block"),
         scalePtr(g.b, "b's scale block"), nullptr);
  // Column-major: our b [k, n] is its [n, k]; stored transposed it is [k, n], to be transposed back.
  const Operand left{b.data, type, g.transB ? g.k : g.n, g.transB ? g.n : g.k, g.transB ? g.k : g.n, g.transB};
  const Operand right{a.data, type, g.transA ? g.m : g.k, g.transA ? g.k : g.m, g.transA ? g.m : g.k, g.transA};
  const bool done = multiply(left, right, direct ? g.c.data : result.wide.data(), direct ? g.c.dtype : DType::f32, g.n, g.m, g.k, static_cast<const float*>(factors.data()),
                             direct ? g.bias : Tensor{}, nullptr, nullptr, false);
  if (done && !direct) finishProduct(g, result.wide, g.n);
  return done;
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
