#include "gathered.h"

namespace fp8lm {

namespace {
void (*pending)() = nullptr;
}

std::recursive_mutex& gatherMutex() {
  static std::recursive_mutex* m = new std::recursive_mutex;
  return *m;
}

void holdBack(void (*send)()) {
  if (pending != send) sendGathered();
  pending = send;
}

void sendGathered() {
  const std::lock_guard<std::recursive_mutex> lock(gatherMutex());
  if (!pending) return;
  void (*const send)() = pending;
  pending = nullptr;  // its own launches come here again
  check(cudaSetDevice(device().index), "cudaSetDevice");  // this may be another thread
  send();
}

void* zeroedMemory(size_t bytes) {
  void* made = nullptr;
  check(cudaMalloc(&made, bytes), "cudaMalloc");
  flushGraph();  // it must be zero before the first kernel, in whichever graph that is
  check(cudaMemsetAsync(made, 0, bytes, stream()), "cudaMemset");
  return made;
}

}  // namespace fp8lm
