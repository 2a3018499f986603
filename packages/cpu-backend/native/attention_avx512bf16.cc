// Attention on bf16 with AVX512_BF16: all products by vdpbf16ps, which on AMD does twice the FMA's work a cycle. Used where
// preferDot() holds (isa.h), for q, k, v, y and dy in bf16 and a positive softmax scale. Generation reads its cache in
// place, bound by memory, and stays with the FMA variant.
//
// Q K^T and dO V^T are exact products summed in float32; P and dS are rounded to bf16 before they are multiplied, as flash
// attention does on GPUs. Blocks, order and what any split over threads gives are the FMA variant's (attention_tasks.inl).
// vdpbf16ps takes and leaves subnormals as zero, so nothing here costs an assist.
#include "attention.h"
#include "vec.h"

namespace fp8lm {
namespace FP8_VEC {
namespace {

constexpr float kMinusInf = -__builtin_inff();
constexpr vi kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Each part uses the ones before it.
#include "attention_tile.inl"

#include "attention_pack.inl"

#include "attention_ahead.inl"

#include "attention_dot_tile.inl"

#include "attention_dot_pack.inl"

#include "attention_dot_forward.inl"

#include "attention_dot_backward.inl"

#include "attention_tasks.inl"

}  // namespace
}  // namespace FP8_VEC

const AttentionKernels& attentionDot() {
  using namespace FP8_VEC;
  static constexpr AttentionKernels table = {
      dotForwardScratch,        forward<DotKeys>, DotPair::floats,          backwardPairs<DotPair>, queryTasks,
      keyTasks,                 backwardQueries<DotPair>, backwardKeys<DotPair>, nullptr,           nullptr};
  return table;
}

}  // namespace fp8lm
