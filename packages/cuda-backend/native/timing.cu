// FP8_CUDA_TIMES=1: device time of every launch by name, from a pair of events around each. Graphs stay off meanwhile, and the
// events cost a few microseconds a launch, so that it is a profile and not a benchmark.
#include "timing.h"

#include <cstdlib>

#include "context.h"

namespace fp8lm {

namespace {

struct Pair {
  Times::iterator row;
  cudaEvent_t begin, end;
};

struct Timing {
  Times times;
  std::vector<Pair> pending;
  std::vector<cudaEvent_t> free;

  cudaEvent_t event() {
    if (!free.empty()) {
      const cudaEvent_t e = free.back();
      free.pop_back();
      return e;
    }
    cudaEvent_t e;
    check(cudaEventCreateWithFlags(&e, 0), "cudaEventCreate");
    return e;
  }
};

Timing& timing() {
  static Timing* t = new Timing;
  return *t;
}

}  // namespace

bool timesLaunches() {
  static const bool on = [] {
    const char* v = std::getenv("FP8_CUDA_TIMES");
    return v && *v == '1';
  }();
  return on;
}

Timed::Timed(const std::string& name) : on_(timesLaunches()) {
  if (!on_) return;
  Timing& t = timing();
  const auto row = t.times.emplace(name, LaunchTime{}).first;
  t.pending.push_back({row, t.event(), t.event()});
  check(cudaEventRecord(t.pending.back().begin, stream()), "cudaEventRecord");
}

Timed::~Timed() {
  if (on_) (void)cudaEventRecord(timing().pending.back().end, stream());
}

const Times& launchTimes() {
  flushGraph();
  Timing& t = timing();
  for (const Pair& p : t.pending) {
    float ms = 0.0f;
    check(cudaEventSynchronize(p.end), "cudaEventSynchronize");
    check(cudaEventElapsedTime(&ms, p.begin, p.end), "cudaEventElapsedTime");
    p.row->second.calls++;
    p.row->second.ms += double(ms);
    t.free.push_back(p.begin);
    t.free.push_back(p.end);
  }
  t.pending.clear();
  return t.times;
}

void resetLaunchTimes() {
  launchTimes();
  timing().times.clear();
}

}  // namespace fp8lm
