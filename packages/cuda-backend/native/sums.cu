// Sums in float64, in a fixed order: the same bits each time. Sums of squares, a call a parameter, are gathered into a launch.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "gathered.h"
#include "words.h"

namespace fp8lm {

namespace {

constexpr int kMostPartials = 256;

__global__ void __launch_bounds__(kThreads, 3) sumKernel(Ptr<float> y, Ptr<double> partials, Ptr<unsigned> words, Ptr<const float> x, int64_t n, double alpha) {
  beginKernel();
  double sum = 0.0;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) sum += double(x[i]);
  sum = blockReduce<Reduce::sum>(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (!lastBlock(words + kTicket) || threadIdx.x > 0) return;
  double total = 0.0;
  for (unsigned b = 0; b < gridDim.x; b++) total += fromOtherBlocks(partials, b);
  y[0] = float(alpha * total);
}

// --- sums of squares ---------------------------------------------------------------------------------------------------------

constexpr int kMostJobs = 256, kMostChunks = 1024, kInFlight = 4;
/// Chunks are multiples of these elements: 64 KiB.
template <DType X> constexpr int kChunkUnit = 65536 / int(sizeof(Code<X>));

template <DType X> struct Job {
  Ptr<const Code<X>> x;
  Ptr<const float> block;
  Ptr<float> y;
  int64_t n, chunk;  // elements: all, a chunk
  bool aligned;
};

template <DType X> struct List : JobList<Job<X>, kMostJobs> {
  Ptr<double> partials;  // kMostChunks a job
  Ptr<unsigned> tickets;
};

/// The squares of 16 bytes. Of the narrow formats with a scale they are added in float32 first: their squares have at most 22
/// bits and lie far within its range. Those of f32 and bf16 may not.
template <DType X> __device__ __forceinline__ double squares(const Words& in) {
  constexpr int per = 4 * kPerWord<X>;
  float v[per];
#pragma unroll
  for (int k = 0; k < 4; k++) decodeWord<X>(in.v[k], v + k * kPerWord<X>);
  if constexpr (isScaled<X>) {
    float sum[4] = {};
#pragma unroll
    for (int k = 0; k < per; k++) sum[k % 4] = math::mulAdd(v[k], v[k], sum[k % 4]);
    return double((sum[0] + sum[1]) + (sum[2] + sum[3]));
  } else {
    double sum = 0.0;
#pragma unroll
    for (int k = 0; k < per; k++) sum = ::fma(double(v[k]), double(v[k]), sum);
    return sum;
  }
}

template <DType X> __device__ __forceinline__ double squaresOfChunk(const Job<X>& j, int64_t begin) {
  constexpr int per = 4 * kPerWord<X>;
  const int64_t end = begin + j.chunk < j.n ? begin + j.chunk : j.n, stride = int64_t(kThreads) * per;
  double sum = 0.0;
  int64_t i = begin + int64_t(threadIdx.x) * per;
  if (j.aligned) {
    for (; i + (kInFlight - 1) * stride + per <= end; i += kInFlight * stride) {
      Words in[kInFlight];
#pragma unroll
      for (int q = 0; q < kInFlight; q++) in[q] = loadWords(j.x, i + q * stride);
#pragma unroll
      for (int q = 0; q < kInFlight; q++) sum += squares<X>(in[q]);
    }
    for (; i + per <= end; i += stride) sum += squares<X>(loadWords(j.x, i));
  }
  for (; i < end; i += stride) {
    for (int64_t k = i; k < i + per && k < end; k++) {
      const double v = double(Form<X>::decode(j.x[k]));
      sum = ::fma(v, v, sum);
    }
  }
  return sum;
}

template <DType X> __global__ void __launch_bounds__(kThreads, 4) sumSquaresKernel(const __grid_constant__ List<X> list) {
  beginKernel();
  const int chunks = list.chunks();
  for (int c = int(blockIdx.x); c < chunks; c += int(gridDim.x)) {
    const int k = list.jobOf(c), first = list.firstChunk[k], ofJob = list.firstChunk[k + 1] - first;
    const Job<X>& j = list.job[k];
    const double sum = blockReduce<Reduce::sum>(squaresOfChunk(j, (c - first) * j.chunk));
    const Ptr<double> partials = list.partials + int64_t(k) * kMostChunks;
    if (threadIdx.x == 0) partials[c - first] = sum;
    if (!lastOfJob(list.tickets + k, 1u, unsigned(ofJob))) continue;
    double total = 0.0;
    for (int p = int(threadIdx.x); p < ofJob; p += kThreads) total += fromOtherBlocks(partials, p);
    total = blockReduce<Reduce::sum>(total);
    if (threadIdx.x > 0) continue;
    const double inv = j.block ? double(j.block[kScaleInv]) : 1.0;
    j.y[0] = float(total * inv * inv);
  }
}

struct SumCall {
  Tensor y, x;
  int64_t n;
};

void send();
CallList<SumCall>& list() {
  static auto* l = new CallList<SumCall>(send);
  return *l;
}

/// Partial sums, then tickets, which kernels find at zero and leave at zero.
struct Workspace {
  static constexpr int64_t kPartials = int64_t(kMostJobs) * kMostChunks;
  void* data = zeroedMemory(kPartials * sizeof(double) + kMostJobs * sizeof(unsigned));
  Ptr<double> partials() const { return rawPtr<double>(data, kPartials, "partial sums"); }
  Ptr<unsigned> tickets() const { return rawPtr<unsigned>(static_cast<double*>(data) + kPartials, kMostJobs, "tickets"); }
};

const Workspace& workspace() {
  static const Workspace* w = new Workspace;
  return *w;
}

template <DType X> void sendSums() {
  static auto* const jobs = new List<X>;
  jobs->count = 0;
  jobs->partials = workspace().partials();
  jobs->tickets = workspace().tickets();
  const auto launchJobs = [&] {
    if (jobs->count == 0) return;
    launch("sum_squares", sumSquaresKernel<X>, dim3(blocksOf(sumSquaresKernel<X>, jobs->chunks(), 1, kThreads)), dim3(kThreads), *jobs);
    jobs->count = 0;
  };
  for (const SumCall& c : list().calls) {
    if (c.x.dtype != X) continue;
    if (jobs->count == List<X>::kMost) launchJobs();
    const int64_t units = (c.n + kChunkUnit<X> - 1) / kChunkUnit<X>, chunk = (units + kMostChunks - 1) / kMostChunks * kChunkUnit<X>;
    jobs->add({ptr<const Code<X>>(c.x, "x"), scalePtr(c.x, "x's scale block"), ptr<float>(c.y, "y"), c.n, chunk, isAligned(c.x)},
              c.n > 0 ? (c.n + chunk - 1) / chunk : 1);
  }
  launchJobs();
}

void send() {
  sendSums<DType::f32>();
  sendSums<DType::bf16>();
  sendSums<DType::f16>();
  sendSums<DType::e4m3>();
  sendSums<DType::e5m2>();
  list().clear();
}

}  // namespace

void sum(const Tensor& y, const Tensor& x, int64_t n, double alpha) {
  unsigned blocks = blocksFor(n, kThreads * 8);
  if (blocks > kMostPartials) blocks = kMostPartials;
  const Scratch partials(kMostPartials * sizeof(double));
  launch("sum", sumKernel, dim3(blocks), dim3(kThreads), ptr<float>(y, "y"), partials.as<double>("partial sums"), words(), ptr<const float>(x, "x"), n, alpha);
}

void sum_squares(const Tensor& y, const Tensor& x, int64_t n) {
  workspace();
  list().add({y, x, n}, {{y, true}, {x, false}});
}

}  // namespace fp8lm
