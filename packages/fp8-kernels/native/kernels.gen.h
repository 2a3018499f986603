// Generated from packages/fp8-kernels/kernels.def by tools/generate-kernels.mjs. Do not edit.
#pragma once
#include "tensor.h"

namespace fp8lm {

void fill(const Tensor& y, int64_t n, double value);
/// to y's present scale, kept; counts saturation, records amax
void cast(const Tensor& y, const Tensor& x, int64_t n, int64_t random);
/// scale * mu; the amax is `known`, else the one x's block records, else measured
void quantize(const Tensor& y, const Tensor& x, const Tensor& window, const Tensor& mu, const Tensor& known, int64_t n, int64_t random);
/// transposed = y as [dim, rows], of y's dtype and with its scale block; sums += column sums of x (bias gradient)
void quantize_rows(const Tensor& y, const Tensor& transposed, const Tensor& sums, const Tensor& x, const Tensor& window, int64_t rows, int64_t dim, int64_t random);
/// y = quantize(y + x), just in time, scale * mu
void accumulate_fp8(const Tensor& y, const Tensor& x, const Tensor& mu, int64_t n);
/// max |x|; +inf if any NaN
void amax(const Tensor& y, const Tensor& x, int64_t n);
/// end of step: roll, next scale; max = 448 or 57344
void window_update(const Tensor& windows, int64_t count, double max);
/// share of +-max codes > threshold: mu / 2, else mu * growth
void mu_update(const Tensor& mu, const Tensor& x, int64_t n, double threshold, double growth);
/// number of +-max codes
void saturated(const Tensor& y, const Tensor& x, int64_t n);
/// mu_update for shards: count, summed over them, of total elements
void mu_follow(const Tensor& mu, const Tensor& count, double total, double threshold, double growth);
/// y may be a or b
void add(const Tensor& y, const Tensor& a, const Tensor& b, int64_t n);
void scale(const Tensor& y, const Tensor& x, int64_t n, double alpha);
/// tanh approximation
void gelu_forward(const Tensor& y, const Tensor& x, const Tensor& window, int64_t n);
void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t n);
/// row = gate | up; silu(gate) * up
void swiglu_forward(const Tensor& y, const Tensor& x, const Tensor& window, int64_t rows, int64_t dim);
void swiglu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t rows, int64_t dim);
/// y = residual + mask * x / (1 - rate); its own backward
void dropout(const Tensor& y, const Tensor& x, const Tensor& residual, int64_t n, double rate, int64_t seed, int64_t stream, int64_t offset);
/// rotates q and k of q|k|v rows, half-rotation; copies v; y may be x
void rope(const Tensor& y, const Tensor& x, int64_t rows, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t position, double theta, int64_t inverse);
/// stats row: mean, 1/std
void layer_norm_forward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& window, int64_t rows, int64_t dim, double eps);
/// dx = residual + gradient; residual may be dx
void layer_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim);
/// stats: 1/rms
void rms_norm_forward(const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& window, int64_t rows, int64_t dim, double eps);
void rms_norm_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats, const Tensor& residual, int64_t rows, int64_t dim);
/// c (+)= alpha * op(a) op(b) + bias
void gemm(const Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, const Tensor& amax, int64_t m, int64_t n, int64_t k, int64_t trans_a, int64_t trans_b, int64_t accumulate, int64_t compute_f32, double alpha);
void column_sums(const Tensor& y, const Tensor& x, int64_t rows, int64_t dim);
void attention_forward(const Tensor& y, const Tensor& lse, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, double softmax_scale);
void attention_backward(const Tensor& dqkv, const Tensor& dy, const Tensor& y, const Tensor& lse, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, double softmax_scale);
/// appends k, v at rows start.., attends over start + seq
void attention_cached(const Tensor& y, const Tensor& keys, const Tensor& values, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t start, int64_t max_seq, double softmax_scale);
/// token outside [start, start + vocab): zero row
void embedding_forward(const Tensor& y, const Tensor& tokens, const Tensor& table, const Tensor& positions, int64_t rows, int64_t dim, int64_t vocab, int64_t vocab_start, int64_t batch, int64_t position, int64_t max_seq);
void embedding_backward(const Tensor& dtable, const Tensor& dpositions, const Tensor& tokens, const Tensor& dy, int64_t rows, int64_t dim, int64_t vocab, int64_t vocab_start, int64_t batch, int64_t position, int64_t max_seq);
/// row r begins at r * stride; backward: logits become their gradients * grad_scale, what lies beyond vocab 0; target < 0: row ignored, loss 0
void softmax_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& targets, int64_t rows, int64_t vocab, int64_t stride, double grad_scale, double smoothing, int64_t backward);
/// of a slice of the vocabulary; a row: max, sum exp(x - max), logit of the target or 0, sum of logits
void softmax_stats(const Tensor& stats, const Tensor& logits, const Tensor& targets, int64_t rows, int64_t vocab, int64_t vocab_start);
/// softmax_cross_entropy over `total` logits of which these are a slice, from the stats of all slices
void sharded_cross_entropy(const Tensor& logits, const Tensor& loss, const Tensor& stats, const Tensor& targets, int64_t rows, int64_t vocab, int64_t vocab_start, int64_t parts, int64_t total, double grad_scale, double smoothing, int64_t backward);
/// y = alpha * sum, float64 inside
void sum(const Tensor& y, const Tensor& x, int64_t n, double alpha);
/// float64 inside
void sum_squares(const Tensor& y, const Tensor& x, int64_t n);
/// control = coefficient, norm, skip, steps taken; non-finite norm: skip = 1
void clip_control(const Tensor& control, const Tensor& sums, int64_t count, double max_norm);
/// phase 0: measures and applies; 1: only writes amaxes, of the new p, m, v (p: master or w; 0 for what no scale hangs on); 2: applies with these amaxes, the largest over all shards of the tensor
void adamw(const Tensor& w, const Tensor& master, const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& control, const Tensor& amaxes, int64_t n, int64_t phase, double lr, double beta1, double beta2, double eps, double weight_decay);
/// element offset + i of stream: counter-based, same bits on every backend
void random_normal(const Tensor& y, int64_t n, double std, int64_t seed, int64_t stream, int64_t offset);

}  // namespace fp8lm
