// Inside the CPU backend's attention: what the instruction-set variants (attention_generic.cc, _avx2.cc, _avx512.cc,
// _avx512bf16.cc) share with attention.cc, which checks the arguments, splits the work over threads and picks a variant.
#pragma once
#include "table.h"
#include "tensor.h"

namespace fp8lm {

/// Where the rows of one of q, k, v, y … lie: element (t, b, head, d) is data[t * step + b * batchStep + head * dim +
/// d].
struct HeadView {
  void* data;
  DType dtype;  // f32 or bf16
  int64_t step, batchStep;
};

struct AttentionArgs {
  HeadView q, k, v, y;
  HeadView dq, dk, dv, dy;  // backward only
  float* lse;               // [batch, heads, queries] natural log of the softmax's denominator; may be null in forward
  int64_t queries, keys;    // query i sees keys 0 .. offset + i
  int64_t offset;
  int64_t batch, heads, kvHeads, dim;
  float scale;
  int64_t group() const { return heads / kvHeads; }
};

/// One variant. `scratch` is 64-byte aligned, one thread's own; its size in floats comes from the function named so.
struct AttentionKernels {
  /// Tasks [begin, end) of queryTasks(): one query block of one head each. Any split gives the same bits.
  int64_t (*forwardScratch)(const AttentionArgs&);
  void (*forward)(const AttentionArgs&, float* scratch, int64_t begin, int64_t end);

  /// Gradients of all of (batch, kv head) pairs [begin, end), five products a block.
  int64_t (*backwardScratch)(const AttentionArgs&);
  void (*backwardPairs)(const AttentionArgs&, float* scratch, int64_t begin, int64_t end);
  /// The same bits in finer tasks for when there are fewer pairs than threads: dq by query blocks of one head, dk and
  /// dv by key blocks of one pair. Recomputes the probabilities, seven products a block.
  int64_t (*queryTasks)(const AttentionArgs&);
  int64_t (*keyTasks)(const AttentionArgs&);
  void (*backwardQueries)(const AttentionArgs&, float* scratch, int64_t begin, int64_t end);
  void (*backwardKeys)(const AttentionArgs&, float* scratch, int64_t begin, int64_t end);

  /// Few queries against a long cache, (batch, kv head) pairs [begin, end): reads the cache in place, in order. Null in
  /// attentionDot().
  int64_t (*cachedScratch)(const AttentionArgs&);
  void (*cached)(const AttentionArgs&, float* scratch, int64_t begin, int64_t end);
};

FP8_TABLE(AttentionKernels, attention)

#if defined(__x86_64__)
/// Products of bf16 pairs by vdpbf16ps; needs hasDot() (isa.h), q, k, v, y and dy in bf16, scale > 0 and offset 0.
const AttentionKernels& attentionDot();
#endif

}  // namespace fp8lm
