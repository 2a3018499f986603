#include "context.h"

#include <cstdlib>
#include <map>
#include <tuple>
#include <stdexcept>
#include <utility>

#include "../../fp8-kernels/native/memory.h"

namespace fp8lm {

void throwCuda(cudaError_t error, const char* what) {
  throw std::runtime_error(std::string(what) + ": CUDA says " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error));
}

namespace {

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

/// FP8_CUDA_DEVICE, else LOCAL_RANK modulo the devices (several ranks may share one), else 0.
int chooseDevice(int count) {
  if (const char* v = std::getenv("FP8_CUDA_DEVICE")) {
    const int index = std::atoi(v);
    if (index < 0 || index >= count) {
      throw std::runtime_error("FP8_CUDA_DEVICE=" + std::string(v) + ", but there are " + std::to_string(count) + " CUDA devices, from 0");
    }
    return index;
  }
  const char* rank = std::getenv("LOCAL_RANK");
  return rank ? std::atoi(rank) % count : 0;
}

DeviceInfo open() {
  DeviceInfo info;
  (void)cudaRuntimeGetVersion(&info.runtimeVersion);
  (void)cudaDriverGetVersion(&info.driverVersion);
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (info.driverVersion == 0) {
    throw std::runtime_error("no NVIDIA driver (libcuda.so.1 was looked for); install one of version " + version(info.runtimeVersion) + " or newer");
  }
  if (info.driverVersion / 1000 < info.runtimeVersion / 1000) {
    throw std::runtime_error("the NVIDIA driver supports CUDA " + version(info.driverVersion) + ", but this addon was built with " +
                             version(info.runtimeVersion) + "; update the driver or build with an older toolkit");
  }
  if (found != cudaSuccess || count == 0) {
    throw std::runtime_error(std::string("no CUDA device: ") + cudaGetErrorString(found) + "; see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  info.index = chooseDevice(count);
  check(cudaSetDevice(info.index), "cudaSetDevice");
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, info.index), "cudaGetDeviceProperties");
  info.name = prop.name;
  info.major = prop.major;
  info.minor = prop.minor;
  info.multiprocessors = prop.multiProcessorCount;
  info.bytes = prop.totalGlobalMem;
  if (info.major < 8) {
    throw std::runtime_error(info.name + " has compute capability " + std::to_string(info.major) + "." + std::to_string(info.minor) +
                             "; 8.0 (Ampere) or newer is needed");
  }
  return info;
}

}  // namespace

const DeviceInfo& device() {
  static const DeviceInfo info = open();
  return info;
}

unsigned deviceBlocks() { return unsigned(device().multiprocessors) * 8; }

#if !defined(FP8_SIM)
unsigned residentBlocks(const void* kernel, unsigned threads, size_t sharedBytes) {
  static auto* const known = new std::map<std::tuple<const void*, unsigned, size_t>, unsigned>;
  const auto found = known->find({kernel, threads, sharedBytes});
  if (found != known->end()) return found->second;
  int blocks = 0;
  if (sharedBytes > kSharedWithoutAsking && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(sharedBytes))) cudaGetLastError();  // too much: none fits
  else check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, int(threads), sharedBytes), "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (!sharedBytes && blocks < 1) blocks = 1;
  return (*known)[{kernel, threads, sharedBytes}] = unsigned(blocks) * unsigned(device().multiprocessors);
}
#endif

cudaStream_t stream() {
  static const cudaStream_t s = [] {
    device();
    cudaStream_t made;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreate");
    return made;
  }();
  return s;
}

Ptr<unsigned> words() {
  static void* const data = [] {
    void* made = nullptr;
    check(cudaMalloc(&made, kWords * sizeof(unsigned)), "cudaMalloc");
    flushGraph();  // the words must be zero before the first kernel, in whichever graph that is
    check(cudaMemsetAsync(made, 0, kWords * sizeof(unsigned), stream()), "cudaMemset");
    return made;
  }();
  return rawPtr<unsigned>(data, kWords, "workspace words");
}

Scratch::Scratch(size_t bytes) : data_(memory::allocate(bytes)), bytes_(bytes) {}
Scratch::~Scratch() { memory::release(data_, bytes_); }

}  // namespace fp8lm
