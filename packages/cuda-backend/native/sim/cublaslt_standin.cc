// Stand-in for cuBLASLt on the simulated device: the same functions with the same column-major meaning, and as strict: what
// the library refuses for FP8 (layouts other than TN, dims and addresses that are no multiples of 16, two e5m2 operands, scales
// at other addresses) is refused here, so that the code which avoids it is exercised. Its sums are float32 in order of k.
#include <cstring>
#include <vector>

#include "../../../fp8-kernels/native/float8.h"
#include "../cublaslt.h"

namespace fp8lm::lt {

struct Handle_ {};
struct Desc_ {
  ComputeType compute;
  DataType scaleType;
  int pointerMode = kHost, transA = kN, transB = kN, epilogue = kEpilogueDefault, biasType = -1;
  const void *bias = nullptr, *scaleA = nullptr, *scaleB = nullptr;
  int8_t fast = 0;
};
struct Layout_ {
  DataType type;
  int64_t rows, cols, ld;
};
struct Preference_ {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

namespace {

bool isFp8(DataType t) { return t == kE4M3 || t == kE5M2; }

float decode(DataType t, const void* p, int64_t i) {
  switch (t) {
    case kF32: return static_cast<const float*>(p)[i];
    case kBF16: return decodeBF16(static_cast<const uint16_t*>(p)[i]);
    case kF16: return decodeF16(static_cast<const uint16_t*>(p)[i]);
    case kE4M3: return decodeE4M3(static_cast<const uint8_t*>(p)[i]);
    default: return decodeE5M2(static_cast<const uint8_t*>(p)[i]);
  }
}

void encode(DataType t, void* p, int64_t i, float x) {
  if (t == kF32) static_cast<float*>(p)[i] = x;
  else if (t == kBF16) static_cast<uint16_t*>(p)[i] = encodeBF16(x);
  else static_cast<uint16_t*>(p)[i] = encodeF16(x);
}

/// What the library would say of these descriptors.
Status supported(const Desc_& d, const Layout_& a, const Layout_& b, const Layout_& c, const Layout_& out, const uint32_t alignment[4]) {
  if (d.compute != kCompute32F || d.scaleType != kF32) return kNotSupported;
  if (c.type != out.type || c.rows != out.rows || c.cols != out.cols) return kNotSupported;
  const int64_t m = d.transA ? a.cols : a.rows, k = d.transA ? a.rows : a.cols, n = d.transB ? b.rows : b.cols;
  if ((d.transB ? b.cols : b.rows) != k || out.rows != m || out.cols != n) return kInvalidValue;
  if (a.ld < a.rows || b.ld < b.rows || out.ld < out.rows) return kInvalidValue;
  if (m == 0 || n == 0 || k == 0) return kNotSupported;
  if (isFp8(a.type) != isFp8(b.type)) return kNotSupported;
  if (isFp8(a.type)) {
    if (a.type == kE5M2 && b.type == kE5M2) return kNotSupported;
    if (d.transA != kT || d.transB != kN) return kNotSupported;
    if (m % 16 || n % 16 || k % 16 || a.ld % 16 || b.ld % 16) return kNotSupported;
    for (int i = 0; i < 4; i++)
      if (alignment[i] < 16) return kNotSupported;
    if (out.type != kF32 && out.type != kBF16 && out.type != kF16) return kNotSupported;
    if (d.epilogue == kEpilogueBias && d.biasType != kBF16) return kNotSupported;
  } else {
    if (a.type != b.type || d.scaleA || d.scaleB || d.fast) return kNotSupported;
    if (a.type == kF32 && out.type != kF32) return kNotSupported;
    if (a.type == kBF16 && out.type == kF16) return kNotSupported;
    if (a.type == kF16 && out.type == kBF16) return kNotSupported;
    if (d.epilogue == kEpilogueBias && d.biasType != int(out.type) && d.biasType != -1) return kNotSupported;
  }
  return kSuccess;
}

uint32_t alignmentOf(const void* p) {
  uint32_t a = 256;
  while (reinterpret_cast<uintptr_t>(p) % a) a /= 2;
  return a;
}

}  // namespace

static Status create(Handle* out) { return *out = new Handle_, kSuccess; }
static size_t version() { return 130000; }
static Status descCreate(Desc* out, ComputeType compute, DataType scale) {
  *out = new Desc_;
  (*out)->compute = compute;
  (*out)->scaleType = scale;
  return kSuccess;
}
static Status descDestroy(Desc d) { return delete d, kSuccess; }
static Status descSet(Desc d, DescAttribute attribute, const void* value, size_t bytes) {
  const auto put = [&](void* to, size_t size) { return size == bytes ? (std::memcpy(to, value, size), kSuccess) : kInvalidValue; };
  switch (attribute) {
    case kPointerMode: return put(&d->pointerMode, 4);
    case kTransA: return put(&d->transA, 4);
    case kTransB: return put(&d->transB, 4);
    case kEpilogue: return put(&d->epilogue, 4);
    case kBiasDataType: return put(&d->biasType, 4);
    case kBiasPointer: return put(&d->bias, sizeof(void*));
    case kAScalePointer: return put(&d->scaleA, sizeof(void*));
    case kBScalePointer: return put(&d->scaleB, sizeof(void*));
    case kFastAccum: return put(&d->fast, 1);
  }
  return kInvalidValue;
}
static Status layoutCreate(Layout* out, DataType type, uint64_t rows, uint64_t cols, int64_t ld) {
  return *out = new Layout_{type, int64_t(rows), int64_t(cols), ld}, kSuccess;
}
static Status layoutDestroy(Layout l) { return delete l, kSuccess; }
static Status preferenceCreate(Preference* out) { return *out = new Preference_, kSuccess; }
static Status preferenceDestroy(Preference p) { return delete p, kSuccess; }
static Status preferenceSet(Preference p, PreferenceAttribute attribute, const void* value, size_t bytes) {
  if (attribute == kMaxWorkspaceBytes && bytes == 8) return std::memcpy(&p->workspace, value, 8), kSuccess;
  if (attribute >= kMinAlignmentA && attribute <= kMinAlignmentD && bytes == 4) return std::memcpy(&p->alignment[attribute - kMinAlignmentA], value, 4), kSuccess;
  return kInvalidValue;
}
static Status heuristic(Handle, Desc d, Layout a, Layout b, Layout c, Layout out, Preference p, int requested, HeuristicResult* results, int* found) {
  *found = 0;
  if (requested < 1) return kInvalidValue;
  const Status s = supported(*d, *a, *b, *c, *out, p->alignment);
  if (s != kSuccess) return s;
  results[0] = HeuristicResult{};
  results[0].algo.data[0] = 0x5eed;
  *found = 1;
  return kSuccess;
}

static Status matmul(Handle, Desc desc, const void* alpha, const void* a, Layout la, const void* b, Layout lb, const void* beta, const void* c, Layout lc, void* out, Layout lo, const Algo* algo, void*, size_t, cudaStream_t) {
  if (!algo || algo->data[0] != 0x5eed) return kInvalidValue;
  const uint32_t alignment[4] = {alignmentOf(a), alignmentOf(b), alignmentOf(c), alignmentOf(out)};
  const Status s = supported(*desc, *la, *lb, *lc, *lo, alignment);
  if (s != kSuccess) return s;
  // Scales elsewhere are found out at the launch, not by the heuristic.
  for (const void* scale : {desc->scaleA, desc->scaleB})
    if (reinterpret_cast<uintptr_t>(scale) % 16) return kNotSupported;
  const Desc_ d = *desc;
  const Layout_ A = *la, B = *lb, D = *lo;
  // A factor on the host is read now, one on the device when the work is done.
  const bool host = d.pointerMode == kHost;
  const float alphaNow = host ? *static_cast<const float*>(alpha) : 0.0f, betaNow = host ? *static_cast<const float*>(beta) : 0.0f;
  simEnqueue("cublasLtMatmul", [=] {
    const int64_t m = D.rows, n = D.cols, k = d.transA ? A.rows : A.cols;
    const float scale = (d.scaleA ? *static_cast<const float*>(d.scaleA) : 1.0f) * (d.scaleB ? *static_cast<const float*>(d.scaleB) : 1.0f);
    const float factor = (host ? alphaNow : *static_cast<const float*>(alpha)) * scale, old = host ? betaNow : *static_cast<const float*>(beta);
    // Columns of op(A)^T and op(B) as float32, contiguous in k.
    std::vector<float> left(size_t(m * k)), right(size_t(n * k));
    for (int64_t i = 0; i < m; i++)
      for (int64_t p = 0; p < k; p++) left[size_t(i * k + p)] = decode(A.type, a, d.transA ? p + i * A.ld : i + p * A.ld);
    for (int64_t j = 0; j < n; j++)
      for (int64_t p = 0; p < k; p++) right[size_t(j * k + p)] = decode(B.type, b, d.transB ? j + p * B.ld : p + j * B.ld);
    for (int64_t j = 0; j < n; j++) {
      for (int64_t i = 0; i < m; i++) {
        float lanes[8] = {};
        int64_t p = 0;
        for (; p + 8 <= k; p += 8)
          for (int q = 0; q < 8; q++) lanes[q] += left[size_t(i * k + p + q)] * right[size_t(j * k + p + q)];
        float sum = ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
        for (; p < k; p++) sum += left[size_t(i * k + p)] * right[size_t(j * k + p)];
        float v = sum * factor;
        if (old != 0.0f) v += old * decode(D.type, c, i + j * D.ld);
        if (d.epilogue == kEpilogueBias) v += decode(DataType(d.biasType < 0 ? int(D.type) : d.biasType), d.bias, i);
        encode(D.type, out, i + j * D.ld, v);
      }
    }
  });
  return kSuccess;
}

const Library& library() {
  static const Library l = [] {
    Library made;
    made.create = create;
    made.version = version;
    made.descCreate = descCreate;
    made.descDestroy = descDestroy;
    made.descSet = descSet;
    made.layoutCreate = layoutCreate;
    made.layoutDestroy = layoutDestroy;
    made.preferenceCreate = preferenceCreate;
    made.preferenceDestroy = preferenceDestroy;
    made.preferenceSet = preferenceSet;
    made.heuristic = heuristic;
    made.matmul = matmul;
    made.where = "stand-in of the simulated device";
    return made;
  }();
  return l;
}

}  // namespace fp8lm::lt
