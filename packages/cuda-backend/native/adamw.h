// What both AdamW kernels share: that for the dtypes of the recipes, many tensors a launch (adamw.cu), and that for any
// (adamw_any.cu). AdamW is bit-exact: constants in float64 rounded once, one rounding after each float32 operation.
//
// Each scaled state is stored just in time: its scale needs the amax of its new values. Two passes over the states: `measure`
// computes the update and keeps only amaxes, `apply` computes it again and stores. The weight beside a master is a cast of the
// master as stored: its amax is the stored form of the master's amax (casts are monotone), so it is written in the same pass.
// Everything is decided on the device: the skip, the step count, the corrections.
//
// A shard is measured in one call (phase 1), and written, with the amaxes of the whole tensor, in the next (phase 2).
#pragma once
#include <cmath>

#include "context.h"
#include "scaling.h"

namespace fp8lm {

struct Hyper {
  double lr, beta1, beta2, eps, weightDecay;
};

__device__ __forceinline__ math::AdamWStep stepOf(const Hyper& h, Ptr<const float> control) {
  const double t = double(control[3]);
  math::AdamWStep s;
  s.beta1 = float(h.beta1);
  s.beta2 = float(h.beta2);
  s.oneMinusBeta1 = float(1.0 - h.beta1);
  s.oneMinusBeta2 = float(1.0 - h.beta2);
  s.rootCorrection2 = float(1.0 / ::sqrt(1.0 - ::pow(h.beta2, t)));
  s.step = float(h.lr / (1.0 - ::pow(h.beta1, t)));
  s.decay = float(1.0 - h.lr * h.weightDecay);
  s.eps = float(h.eps);
  s.clip = control[0];
  return s;
}

/// Slots of the words, and the order of the amaxes of a shard. p: the master, or the weight where there is none; w: the weight
/// beside a master.
enum StateSlot { kP = 0, kM = 1, kV = 2, kW = 3 };

/// control [3] of a step: [0] clip, [2] skip, [3] steps.
enum ControlSlot { kClip = 0, kNorm = 1, kSkip = 2, kSteps = 3 };

__device__ __forceinline__ bool isFinite(unsigned bits) { return bits < 0x7f800000u; }

/// One call of the kernel table.
struct AdamWCall {
  Tensor w, master, grad, m, v, control, amaxes;
  int64_t n;
  int phase;
  Hyper hyper;
};

/// States of any dtypes, one tensor a launch.
void adamwAny(const AdamWCall& call);

}  // namespace fp8lm
