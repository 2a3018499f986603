// CUDA graphs without a word from the trainer. Launches are captured from the first one after a host read until the next host
// read (or synchronize), then sent as one graph. A training step reads nothing before its loss, so it is one graph. The next
// step's capture has the same kernels in the same order, and cudaGraphExecUpdate puts its arguments (a new learning rate,
// other addresses) into the graph that exists; only when that fails, another one is made.
//
// FP8_CUDA_GRAPH=1 switches it on, 0 off.
#include <cstdlib>

#include "context.h"

namespace fp8lm {

namespace {

constexpr int kKept = 8;  // graphs: a training step, an evaluation, a step with other flags …

struct Graphs {
  bool on = [] {
    const char* v = std::getenv("FP8_CUDA_GRAPH");
    return v && *v == '1' && !timesLaunches();
  }();
  bool capturing = false;
  int64_t launches = 0;
  cudaGraphExec_t kept[kKept] = {};
  int64_t sizes[kKept] = {};
  int next = 0;
  GraphStats stats;
};

Graphs& graphs() {
  static Graphs* g = new Graphs;
  return *g;
}

cudaGraphExec_t execFor(Graphs& g, cudaGraph_t graph) {
  for (int i = 0; i < kKept; i++) {
    if (!g.kept[i] || g.sizes[i] != g.launches) continue;
    cudaGraphExecUpdateResultInfo info;
    if (cudaGraphExecUpdate(g.kept[i], graph, &info) == cudaSuccess) {
      g.stats.updates++;
      return g.kept[i];
    }
    (void)cudaGetLastError();
  }
  const int slot = g.next;
  g.next = (g.next + 1) % kKept;
  if (g.kept[slot]) check(cudaGraphExecDestroy(g.kept[slot]), "cudaGraphExecDestroy");
  g.kept[slot] = nullptr;
  check(cudaGraphInstantiate(&g.kept[slot], graph, 0), "cudaGraphInstantiate");
  g.sizes[slot] = g.launches;
  g.stats.instantiations++;
  return g.kept[slot];
}

}  // namespace

void beforeLaunch() {
  Graphs& g = graphs();
  if (!g.on) return;
  if (!g.capturing) {
    check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    g.capturing = true;
    g.launches = 0;
  }
  g.launches++;
}

void flushGraph() {
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

GraphStats graphStats() { return graphs().stats; }

}  // namespace fp8lm
