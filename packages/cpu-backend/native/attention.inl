// Attention for one instruction set: that of the flags which the including file is compiled with.
#include "attention.h"
#include "vec.h"

namespace fp8lm::FP8_VEC {
namespace {

constexpr float kMinusInf = -__builtin_inff();
#if FP8_VEC_AVX512
constexpr vi kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif FP8_VEC_AVX2
constexpr vi kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr vi kLaneIndex = {0, 1, 2, 3};
#endif

// Each part uses the ones before it.
#include "attention_tile.inl"

#include "attention_pack.inl"

#include "attention_ahead.inl"

#include "attention_forward.inl"

#include "attention_backward.inl"

#include "attention_tasks.inl"

#include "attention_cached.inl"

}  // namespace

const AttentionKernels attention = {forwardScratch,
                                    forward<PackedKeys>,
                                    BackwardPair::floats,
                                    backwardPairs<BackwardPair>,
                                    queryTasks,
                                    keyTasks,
                                    backwardQueries<BackwardPair>,
                                    backwardKeys<BackwardPair>,
                                    cachedScratch,
                                    cached};

}  // namespace fp8lm::FP8_VEC
