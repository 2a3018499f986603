// Device time of launches; see timing.cu.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fp8lm {

struct LaunchTime {
  int64_t calls = 0;
  double ms = 0.0;
};
using Times = std::map<std::string, LaunchTime>;

/// FP8_CUDA_TIMES=1.
bool timesLaunches();

/// Times what is queued on the stream while it lives; nothing unless timesLaunches().
class Timed {
 public:
  explicit Timed(const std::string& name);
  ~Timed();
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  bool on_;
};

/// By name, since the last reset. Waits for the device.
const Times& launchTimes();
void resetLaunchTimes();

}  // namespace fp8lm
