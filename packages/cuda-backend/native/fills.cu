#include "fills.h"

#include "gathered.h"
#include "words.h"

namespace fp8lm {

namespace {

constexpr int kMostJobs = 512, kChunk = 16384;

struct Job {
  Ptr<float> y;
  int64_t n;
  float x;
  bool aligned;
};
using List = JobList<Job, kMostJobs>;

__global__ void __launch_bounds__(kThreads, 4) fillFloatsKernel(const __grid_constant__ List list) {
  beginKernel();
  const int chunks = list.chunks();
  for (int c = int(blockIdx.x); c < chunks; c += int(gridDim.x)) {
    const int k = list.jobOf(c);
    const Job& j = list.job[k];
    const int64_t begin = int64_t(c - list.firstChunk[k]) * kChunk, end = begin + kChunk < j.n ? begin + kChunk : j.n;
    const uint32_t bits = bitsOf(j.x);
    const Words words{{bits, bits, bits, bits}};
    for (int64_t i = begin + int64_t(threadIdx.x) * 4; i < end; i += kThreads * 4) {
      if (j.aligned && i + 4 <= end) storeWords(j.y, i, words);
      else
        for (int64_t q = i; q < i + 4 && q < end; q++) j.y[q] = j.x;
    }
  }
}

struct FillCall {
  Tensor y;
  int64_t n;
  float x;
};

void send();
CallList<FillCall>& list() {
  static auto* l = new CallList<FillCall>(send);
  return *l;
}

void send() {
  static auto* const jobs = new List;
  jobs->count = 0;
  const auto launchJobs = [&] {
    launch("fill", fillFloatsKernel, dim3(blocksOf(fillFloatsKernel, jobs->chunks(), 1, kThreads)), dim3(kThreads), *jobs);
    jobs->count = 0;
  };
  for (const FillCall& c : list().calls) {
    if (jobs->count == List::kMost) launchJobs();
    jobs->add({ptr<float>(c.y, "y"), c.n, c.x, isAligned(c.y)}, (c.n + kChunk - 1) / kChunk);
  }
  launchJobs();
  list().clear();
}

}  // namespace

void fillFloats(const Tensor& y, int64_t n, float x) {
  if (n > 0) list().add({y, n, x}, {{y, true}});
}

}  // namespace fp8lm
