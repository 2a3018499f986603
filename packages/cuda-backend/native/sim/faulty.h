// See faulty.cu.
#pragma once
#include <string>

namespace fp8lm {
/// Runs the kernel with that fault. @throws sim::Fault where the simulated device finds it
void runFaulty(const std::string& kind);
}  // namespace fp8lm
