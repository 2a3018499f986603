// What this machine can do, measured: the yardsticks of `fp8lm bench`.
#pragma once

namespace fp8lm {

/// GFLOP/s of register-only multiply-add loops on all pool threads for about `seconds`, best of short runs. bf16: the
/// better of the float FMA and the bf16 dot product, whichever instructions the variant in use has; else the float FMA.
double measurePeakGflops(bool bf16, double seconds);

/// GB/s of copying 128 MiB on all pool threads (bytes read plus bytes written), best of the runs that fit in `seconds`.
double measureCopyGBs(double seconds);

/// One loop of `rounds` x kPeakChains multiply-adds on registers; returns the number of floating-point operations.
using PeakLoop = double (*)(long rounds);
double peakGeneric(long rounds);
double peakAvx2(long rounds);
double peakAvx512(long rounds);
double peakAvx512Dot(long rounds);

}  // namespace fp8lm
