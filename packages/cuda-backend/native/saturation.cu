// How often an FP8 gradient met the end of its range, and what mu makes of it (FP8-LM, section 2.1). A call a parameter,
// gathered into a launch.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "gathered.h"
#include "words.h"

namespace fp8lm {

namespace {

/// mu halves when more than `threshold` of the codes are at the end of the range, else grows slowly.
__device__ __forceinline__ void follow(Ptr<float> mu, double count, double total, double threshold, float growth) {
  mu[0] = total > 0.0 && count / total > threshold ? math::mul(mu[0], 0.5f) : math::mul(mu[0], growth);
}

__global__ void muFollowKernel(Ptr<float> mu, Ptr<const float> count, double total, double threshold, float growth) {
  beginKernel();
  if (threadIdx.x == 0) follow(mu, double(float(count[0])), total, threshold, growth);
}

constexpr int kMostJobs = 256, kChunk = 1 << 16, kInFlight = 4;

struct Job {
  Ptr<const uint8_t> x;
  Ptr<float> y, mu;  // either may be null: the count, the decision
  int64_t n;
  double threshold;
  float growth;
  unsigned code;  // the largest finite one
  bool aligned;
};

/// Words of a job, found at zero and left at zero.
enum JobWord { kCount = 0, kDone = 1, kJobWords = 2 };

struct List : JobList<Job, kMostJobs> {
  Ptr<unsigned> words;
};

/// How many of 16 codes, without their signs, are the one that `pattern` repeats.
__device__ __forceinline__ unsigned countCodes(const Words& in, uint32_t pattern) {
  unsigned count = 0;
#pragma unroll
  for (int k = 0; k < 4; k++) count += unsigned(__popc((0x80808080u - ((in.v[k] & 0x7f7f7f7fu) ^ pattern)) & 0x80808080u));
  return count;
}

__global__ void __launch_bounds__(kThreads, 4) countMaxKernel(const __grid_constant__ List list) {
  beginKernel();
  const int chunks = list.chunks();
  for (int c = int(blockIdx.x); c < chunks; c += int(gridDim.x)) {
    const int k = list.jobOf(c), first = list.firstChunk[k];
    const Job& j = list.job[k];
    const int64_t begin = int64_t(c - first) * kChunk, end = begin + kChunk < j.n ? begin + kChunk : j.n, stride = int64_t(kThreads) * 16;
    const uint32_t pattern = j.code * 0x01010101u;
    unsigned atMax = 0;
    int64_t i = begin + int64_t(threadIdx.x) * 16;
    if (j.aligned) {
      for (; i + (kInFlight - 1) * stride + 16 <= end; i += kInFlight * stride) {
        Words in[kInFlight];
#pragma unroll
        for (int q = 0; q < kInFlight; q++) in[q] = loadWords(j.x, i + q * stride);
#pragma unroll
        for (int q = 0; q < kInFlight; q++) atMax += countCodes(in[q], pattern);
      }
      for (; i + 16 <= end; i += stride) atMax += countCodes(loadWords(j.x, i), pattern);
    }
    for (; i < end; i += stride)
      for (int64_t q = i; q < i + 16 && q < end; q++) atMax += (unsigned(j.x[q]) & 0x7fu) == j.code ? 1u : 0u;
    atMax = blockReduce<Reduce::sum>(atMax);
    const Ptr<unsigned> words = list.words + k * kJobWords;
    if (threadIdx.x == 0 && atMax) atomicAddAt(words, kCount, atMax);
    if (!lastOfJob(words + kDone, 1u, unsigned(list.firstChunk[k + 1] - first)) || threadIdx.x > 0) continue;
    const unsigned count = fromOtherBlocks(words, kCount);
    words[kCount] = 0u;
    if (j.y) j.y[0] = float(count);
    if (j.mu) follow(j.mu, double(count), double(j.n), j.threshold, j.growth);
  }
}

struct CountCall {
  const char* name;
  Tensor y, mu, x;
  int64_t n;
  double threshold, growth;
};

void send();
CallList<CountCall>& list() {
  static auto* l = new CallList<CountCall>(send);
  return *l;
}

Ptr<unsigned> jobWords() {
  constexpr int64_t count = kMostJobs * kJobWords;
  static void* const data = zeroedMemory(count * sizeof(unsigned));
  return rawPtr<unsigned>(data, count, "words of saturation counts");
}

void send() {
  static auto* const jobs = new List;
  jobs->count = 0;
  jobs->words = jobWords();
  const auto launchJobs = [&] {
    launch(list().calls[0].name, countMaxKernel, dim3(blocksOf(countMaxKernel, jobs->chunks(), 1, kThreads)), dim3(kThreads), *jobs);
    jobs->count = 0;
  };
  for (const CountCall& c : list().calls) {
    if (jobs->count == List::kMost) launchJobs();
    jobs->add({ptr<const uint8_t>(c.x, "x"), ptr<float>(c.y, "y"), ptr<float>(c.mu, "mu"), c.n, c.threshold, float(c.growth),
               c.x.dtype == DType::e4m3 ? 0x7eu : 0x7bu, isAligned(c.x)},
              c.n > 0 ? (c.n + kChunk - 1) / kChunk : 1);
  }
  launchJobs();
  list().clear();
}

void gather(const CountCall& call) {
  jobWords();
  list().add(call, {{call.y, true}, {call.mu, true}, {call.x, false}});
}

}  // namespace

void mu_update(const Tensor& mu, const Tensor& x, int64_t n, double threshold, double growth) { gather({"mu_update", Tensor{}, mu, x, n, threshold, growth}); }

void saturated(const Tensor& y, const Tensor& x, int64_t n) { gather({"saturated", y, Tensor{}, x, n, 0.0, 1.0}); }

void mu_follow(const Tensor& mu, const Tensor& count, double total, double threshold, double growth) {
  launch("mu_follow", muFollowKernel, dim3(1), dim3(kWarp), ptr<float>(mu, "mu"), ptr<const float>(count, "count"), total, threshold, float(growth));
}

}  // namespace fp8lm
