#include "runtime.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace fp8lm {

struct SimNode {
  std::string name;
  std::function<void()> work;
};
struct SimGraph {
  std::vector<SimNode> nodes;
};
struct SimGraphExec {
  std::vector<SimNode> nodes;
};
struct SimStream {
  SimGraph* captured = nullptr;
};
struct SimEvent {};

namespace {

/// Device allocations by address: copies are held against their exact bounds.
std::map<uintptr_t, size_t>& allocations() {
  static auto* a = new std::map<uintptr_t, size_t>;
  return *a;
}

/// False if [data, data + bytes) begins in a device allocation but leaves it.
bool fits(const void* data, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  auto it = allocations().upper_bound(at);
  if (it == allocations().begin()) return false;
  --it;
  return at + bytes <= it->first + it->second;
}

size_t used, limit = [] {
  const char* v = std::getenv("FP8_SIM_MEMORY");
  return v ? size_t(std::strtoull(v, nullptr, 10)) : size_t(16) << 30;
}();

cudaError_t enqueue(SimStream* s, const char* name, std::function<void()> work) {
  if (s && s->captured) s->captured->nodes.push_back({name, std::move(work)});
  else work();
  return cudaSuccess;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : error == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "cudaError";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : error == cudaErrorInvalidValue ? "invalid argument" : "error of the simulated device";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  *out = {};
  std::strcpy(out->name, "simulated device");
  // FP8_SIM_CAPABILITY=80 plays a device without FP8 units.
  const char* v = std::getenv("FP8_SIM_CAPABILITY");
  const int capability = v ? std::atoi(v) : 90;
  out->major = capability / 10;
  out->minor = capability % 10;
  out->multiProcessorCount = 1;  // 8 blocks at most: enough to have several, cheap to run
  out->totalGlobalMem = limit;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = limit - used, *total = limit, cudaSuccess; }

cudaError_t cudaMalloc(void** out, size_t bytes) {
  if (used + bytes > limit) return cudaErrorMemoryAllocation;
  void* const data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!data) return cudaErrorMemoryAllocation;
  std::memset(data, 0xff, bytes);  // NaN in every float format
  allocations()[reinterpret_cast<uintptr_t>(data)] = bytes;
  used += bytes;
  *out = data;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  const auto it = allocations().find(reinterpret_cast<uintptr_t>(data));
  if (it == allocations().end()) return data ? cudaErrorInvalidValue : cudaSuccess;
  used -= it->second;
  allocations().erase(it);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  *out = std::malloc(bytes);
  return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* data) { return std::free(data), cudaSuccess; }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  if (!bytes) return cudaSuccess;
  if (kind != cudaMemcpyHostToDevice && !fits(from, bytes)) return cudaErrorInvalidValue;
  if (kind != cudaMemcpyDeviceToHost && !fits(to, bytes)) return cudaErrorInvalidValue;
  return enqueue(s, "memcpy", [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t s) {
  if (!fits(to, bytes)) return cudaErrorInvalidValue;
  return enqueue(s, "memset", [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) { return *out = new SimStream, cudaSuccess; }
/// As on a device, waiting for a stream that is being captured is an error: nothing has been queued yet.
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return s && s->captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) { return *out = new SimEvent, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
/// There is no time on a simulated device.
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 0.0f, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (s->captured) return cudaErrorInvalidValue;
  s->captured = new SimGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* out) {
  if (!s->captured) return cudaErrorInvalidValue;
  *out = s->captured;
  s->captured = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new SimGraphExec{graph->nodes};
  return cudaSuccess;
}
/// A graph takes another's arguments only if it has as many nodes. A driver then takes other kernels too, but with the launch
/// attributes of the old ones: here that ends the process's luck at once.
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo*) {
  if (exec->nodes.size() != graph->nodes.size()) return cudaErrorGraphExecUpdateFailure;
  for (size_t i = 0; i < graph->nodes.size(); i++)
    if (exec->nodes[i].name != graph->nodes[i].name)
      throw std::runtime_error("a graph's node " + std::to_string(i) + " is made for " + exec->nodes[i].name + " and would be updated to " + graph->nodes[i].name);
  exec->nodes = graph->nodes;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const SimNode& n : exec->nodes) n.work();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }

void simLaunch(const char* name, sim::Dim3 grid, sim::Dim3 block, std::function<void()> body) {
  enqueue(stream(), name, [=] { sim::run(name, grid, block, body); });
}
void simEnqueue(const char* name, std::function<void()> work) { enqueue(stream(), name, std::move(work)); }

}  // namespace fp8lm
