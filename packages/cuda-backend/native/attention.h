// What the attention kernels share.
#pragma once
#include "context.h"
#include "formats.h"

namespace fp8lm {

struct AttentionShape {
  int64_t seq, batch, heads, kvHeads, dims;
  __host__ __device__ __forceinline__ int64_t width() const { return (heads + 2 * kvHeads) * dims; }
  __host__ __device__ __forceinline__ int64_t kvHead(int64_t head) const { return head / (heads / kvHeads); }
};

/// bf16 on Hopper. @returns false if these are not its shapes, dtypes or chip; nothing was queued then
bool wgmmaAttentionForward(const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale);
bool wgmmaAttentionBackward(const Tensor& dqkv, const Tensor& dy, const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale);

/// bf16 on the tensor cores. @returns false if these are not its shapes or dtypes; nothing was queued then
bool mmaAttentionForward(const Tensor& y, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale);
/// @param dots dy . y of each row, in lse's order
bool mmaAttentionBackward(const Tensor& dqkv, const Tensor& dy, Ptr<const float> dots, const Tensor& lse, const Tensor& qkv, const AttentionShape& a, float scale);

}  // namespace fp8lm
