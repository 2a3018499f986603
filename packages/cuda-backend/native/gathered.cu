#include "gathered.h"

namespace fp8lm {

namespace {
void (*pending)() = nullptr;
}

namespace gathered {

std::recursive_mutex& mutex() {
  static std::recursive_mutex* m = new std::recursive_mutex;
  return *m;
}

void hold(void (*send)()) {
  if (pending != send) sendGathered();
  pending = send;
}

}  // namespace gathered

void sendGathered() {
  const std::lock_guard<std::recursive_mutex> lock(gathered::mutex());
  if (!pending) return;
  void (*const send)() = pending;
  pending = nullptr;  // its own launches come here again
  check(cudaSetDevice(device().index), "cudaSetDevice");  // this may be another thread
  send();
}

}  // namespace fp8lm
