// One AdamW pass over elements of one tensor, per instruction set (adamw_body.h). Who decides the scales: adamw.cc.
#pragma once
#include "../../fp8-kernels/native/math.h"
#include "../../fp8-kernels/native/tensor.h"
#include "table.h"

namespace fp8lm {

/// `p` is the tensor that the update reads: the master if there is one, else w. inv: scaleInv of the present contents;
/// scale, newInv: of what the pass writes. undo: where to copy the old contents first (same element index), or null.
struct AdamWJob {
  struct State {
    void* data;
    DType type;
    float inv, scale;
    void* undo;
  };
  State p, m, v;
  const void* grad;
  DType gradType;
  float gradInv;
  void* w;  // written from the stored master, or null without one
  DType wType;
  float wScale, masterInv;  // masterInv: 1 / p.scale
  math::AdamWStep step;
  bool stream;  // the undo copy goes past the caches
  bool rewriteM, rewriteV;  // what a pass of `rewrite` stores
};

/// Largest |new value| before rounding, as bits without sign (NaN above infinity).
struct AdamWStats {
  uint32_t p = 0, m = 0, v = 0;
  int64_t clampedP = 0, clampedM = 0, clampedV = 0;  // only from `counted`
  void merge(const AdamWStats& o) {
    clampedP += o.clampedP, clampedM += o.clampedM, clampedV += o.clampedV;
    p = o.p > p ? o.p : p;
    m = o.m > m ? o.m : m;
    v = o.v > v ? o.v : v;
  }
};

using AdamWFn = AdamWStats (*)(const AdamWJob&, int64_t begin, int64_t end);

/// update: copies to undo, writes and measures. apply: only writes; amaxes are known to be finite. measure: writes nothing.
/// moments: measures m and v only, without root and quotient. update, measure and moments may report NaN for all three when
/// one is; exact, a slow measure, does not. rewrite: after an update, stores m or v or both once more, from the old contents in
/// undo. counted: writes, measures and counts clamped values, slowly.
struct AdamWForms {
  AdamWFn update, apply, measure, moments, rewrite, exact, counted;
};

struct AdamWTable {
  AdamWForms (*formsFor)(const AdamWJob&);
  double (*sum)(const float* x, int64_t begin, int64_t end);
  double (*sumSquares[5])(const void* x, int64_t begin, int64_t end);  // of stored values
};

FP8_TABLE(AdamWTable, optimizer)

}  // namespace fp8lm
