// The device that this process uses: found at the first call, with its stream, workspace and graph. One a process.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "device.h"

namespace fp8lm {

struct DeviceInfo {
  std::string name;
  int index = 0, major = 0, minor = 0, multiprocessors = 0;
  size_t bytes = 0;
  int runtimeVersion = 0, driverVersion = 0;
  /// FP8 tensor cores: compute capability 8.9 or newer. Below it FP8 operands are decoded to BF16.
  bool fp8() const { return major * 10 + minor >= 89; }
};

/// @throws std::runtime_error that says what was looked for and what to do
const DeviceInfo& device();

/// Words of device memory that kernels find at zero and leave at zero: amaxes, counts and tickets of one call.
enum Word : int { kMeasured = 0, kAmaxWord = 4, kSaturatedWord = 8, kTicket = 12, kWords = 16 };
Ptr<unsigned> words();

/// Device memory for the length of one call: freed when it goes out of scope, in the order of the stream.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }
  template <class T> Ptr<T> as(const char* name) const { return rawPtr<T>(data_, int64_t(bytes_ / sizeof(T)), name); }
  Tensor tensor(DType dtype) const { return {data_, int64_t(bytes_) / bytesOf(dtype), dtype, nullptr}; }

 private:
  void* data_;
  size_t bytes_;
};

/// Runs what was captured so far; nothing where no graph is being captured.
void flushGraph();
struct GraphStats {
  int64_t launches = 0, updates = 0, instantiations = 0;
};
GraphStats graphStats();

}  // namespace fp8lm
