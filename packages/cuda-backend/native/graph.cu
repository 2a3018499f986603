// CUDA graphs without a word from the trainer. Launches are captured from the first one after a host read until the next host
// read (or synchronize), and sent as graphs of a few hundred launches: the device works on one while the host captures the
// next. A training step reads nothing before its loss. The next step's captures have the same kernels in the same order, and
// cudaGraphExecUpdate puts their arguments (a new learning rate, other addresses) into the graphs that exist; only when that
// fails, another one is made.
//
// The driver would also put other kernels into a graph's nodes, but they keep what else they were made with, for example the
// clusters of cuBLASLt's: a step that began one launch later than the one before came out as NaN. So a graph is only updated
// by one of the same kernels in the same order.
//
// FP8_CUDA_GRAPH=1 switches it on, 0 off.
#include <cstdlib>

#include "gathered.h"

namespace fp8lm {

namespace {

constexpr int kKept = 128;          // graphs: of a training step, an evaluation, a step with other flags …
constexpr int64_t kLaunches = 256;  // of one graph

struct Graphs {
  bool on = [] {
    const char* v = std::getenv("FP8_CUDA_GRAPH");
    return v && *v == '1' && !timesLaunches();
  }();
  bool capturing = false;
  int64_t launches = 0;
  uint64_t kernels = 0;  // a hash of them, in order
  cudaGraphExec_t kept[kKept] = {};
  uint64_t made[kKept] = {};  // of which kernels
  int next = 0, oldest = 0;
  GraphStats stats;
};

Graphs& graphs() {
  static Graphs* g = new Graphs;
  return *g;
}

/// The kept graph that takes this one's arguments. Steps repeat, so the one after the last used comes first.
cudaGraphExec_t execFor(Graphs& g, cudaGraph_t graph) {
  for (int tried = 0; tried < kKept; tried++) {
    const int i = (g.next + tried) % kKept;
    if (!g.kept[i] || g.made[i] != g.kernels) continue;
    cudaGraphExecUpdateResultInfo info;
    if (cudaGraphExecUpdate(g.kept[i], graph, &info) == cudaSuccess) {
      g.next = (i + 1) % kKept;
      g.stats.updates++;
      return g.kept[i];
    }
    (void)cudaGetLastError();
  }
  // A free place, else the oldest.
  int slot = 0;
  while (slot < kKept && g.kept[slot]) slot++;
  if (slot == kKept) slot = g.oldest, g.oldest = (g.oldest + 1) % kKept;
  if (g.kept[slot]) check(cudaGraphExecDestroy(g.kept[slot]), "cudaGraphExecDestroy");
  g.kept[slot] = nullptr;
  check(cudaGraphInstantiate(&g.kept[slot], graph, 0), "cudaGraphInstantiate");
  g.made[slot] = g.kernels;
  g.next = (slot + 1) % kKept;
  g.stats.instantiations++;
  return g.kept[slot];
}

}  // namespace

void beforeLaunch(uintptr_t what) {
  sendGathered();
  Graphs& g = graphs();
  if (!g.on) return;
  if (g.capturing && g.launches >= kLaunches) flushGraph();
  if (!g.capturing) {
    check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    g.capturing = true;
    g.launches = 0;
    g.kernels = 0;
  }
  g.launches++;
  g.kernels = (g.kernels ^ what) * 0x9e3779b97f4a7c15u + 1;
}

void flushGraph() {
  sendGathered();
  Graphs& g = graphs();
  if (!g.capturing) return;
  g.capturing = false;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream(), &graph), "cudaStreamEndCapture");
  struct Destroy {
    cudaGraph_t graph;
    ~Destroy() { (void)cudaGraphDestroy(graph); }
  } destroy{graph};
  check(cudaGraphLaunch(execFor(g, graph), stream()), "cudaGraphLaunch");
  g.stats.launches++;
}

/// Switches graphs on or off from here on.
void useGraphs(bool on) {
  flushGraph();
  graphs().on = on && !timesLaunches();
}

#if !defined(FP8_SIM)
bool launchesOverlap(const void* kernel) {
  static const bool possible = [&] {
    const char* v = std::getenv("FP8_CUDA_OVERLAP");
    if ((v && *v == '0') || device().major < 9) return false;
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    return attributes.ptxVersion >= 90;  // what it was compiled for: below that its beginKernel does not wait
  }();
  return possible && !graphs().on;
}
#endif

GraphStats graphStats() { return graphs().stats; }

}  // namespace fp8lm
