// Causal attention: argument checks, the split over threads, the choice of variant. The arithmetic is in
// attention_*.inl.
#include "attention.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "float8.h"
#include "huge.h"
#include "kernels.gen.h"
#include "threads.h"

namespace fp8lm {
namespace {

/// Scratch of all threads, kept by the calling thread from call to call and only grown: `floats` each, 64-byte aligned.
float* scratchFor(int threads, int64_t floats) {
  thread_local HugeBuffer kept;
  return reinterpret_cast<float*>(kept.atLeast(size_t(threads) * size_t(floats) * sizeof(float)));
}

int64_t padded(int64_t floats) { return (floats + 31) / 16 * 16; }

/// run(args, scratch, begin, end) on pieces of the tasks, whole multiples of `unit` if there are enough for all threads; a
/// thread's scratch is its own.
void split(const AttentionArgs& x, int64_t tasks, int64_t floats, int64_t unit,
           void (*run)(const AttentionArgs&, float*, int64_t, int64_t)) {
  if (tasks == 0) return;
  const int64_t threads = numThreads(), each = padded(floats);
  if (tasks < 4 * unit * threads) unit = 1;
  float* scratch = scratchFor(int(threads), each);
  parallelFor(tasks / unit, [&](int thread, int64_t begin, int64_t end) {
    run(x, scratch + thread * each, begin * unit, end * unit);
  });
}

void checkShape(int64_t seq, int64_t batch, int64_t heads, int64_t kvHeads, int64_t dim) {
  if (seq >= 0 && batch >= 0 && heads > 0 && kvHeads > 0 && dim > 0 && heads % kvHeads == 0) return;
  throw std::invalid_argument("seq " + std::to_string(seq) + ", batch " + std::to_string(batch) + ", heads " +
                              std::to_string(heads) + ", kv_heads " + std::to_string(kvHeads) + ", head_dim " +
                              std::to_string(dim) +
                              "; seq and batch must be >= 0, the others > 0, and kv_heads must divide heads");
}

HeadView view(const Tensor& x, int64_t batch, int64_t rowSize, int64_t offset) {
  return {x.as<char>() + offset * bytesOf(x.dtype), x.dtype, batch * rowSize, rowSize};
}

/// q|k|v rows of `qkv`, seen as three views.
AttentionArgs argsOf(const Tensor& y, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads, int64_t kvHeads,
                     int64_t dim, double scale) {
  AttentionArgs x{};
  const int64_t row = (heads + 2 * kvHeads) * dim;
  x.q = view(qkv, batch, row, 0);
  x.k = view(qkv, batch, row, heads * dim);
  x.v = view(qkv, batch, row, (heads + kvHeads) * dim);
  x.y = view(y, batch, heads * dim, 0);
  x.queries = x.keys = seq;
  x.batch = batch;
  x.heads = heads;
  x.kvHeads = kvHeads;
  x.dim = dim;
  x.scale = float(scale);
  return x;
}

/// Copies (or converts) the new k and v rows behind the cached ones.
void append(const HeadView& to, const HeadView& from, const AttentionArgs& x) {
  const int64_t size = x.kvHeads * x.dim;
  for (int64_t t = 0; t < x.queries; t++)
    for (int64_t b = 0; b < x.batch; b++) {
      const int64_t out = (x.offset + t) * to.step + b * to.batchStep, in = t * from.step + b * from.batchStep;
      const size_t bytes = size_t(bytesOf(to.dtype));
      if (to.dtype == from.dtype)
        std::memcpy(static_cast<char*>(to.data) + out * int64_t(bytes),
                    static_cast<const char*>(from.data) + in * int64_t(bytes), size_t(size) * bytes);
      else if (to.dtype == DType::bf16)
        for (int64_t d = 0; d < size; d++)
          static_cast<uint16_t*>(to.data)[out + d] = encodeBF16(static_cast<const float*>(from.data)[in + d]);
      else
        for (int64_t d = 0; d < size; d++)
          static_cast<float*>(to.data)[out + d] = decodeBF16(static_cast<const uint16_t*>(from.data)[in + d]);
    }
}

/// The variant for the whole of a training sequence. A null dy is a forward's.
const AttentionKernels& tableFor(const AttentionArgs& x) {
#if defined(__x86_64__)
  const auto bf16 = [](const HeadView& h) { return !h.data || h.dtype == DType::bf16; };
  if (preferDot() && x.scale > 0 && bf16(x.q) && bf16(x.k) && bf16(x.v) && bf16(x.y) && bf16(x.dy)) return attentionDot();
#endif
  return attentionTable();
}

/// Tasks that share the packed keys of one head.
int64_t tasksOfHead(const AttentionArgs& x, const AttentionKernels& k) {
  return x.batch > 0 ? k.queryTasks(x) / (x.batch * x.heads) : 1;
}

}  // namespace

void attention_forward(const Tensor& y, const Tensor& lse, const Tensor& qkv, int64_t seq, int64_t batch, int64_t heads,
                       int64_t kv_heads, int64_t head_dim, double softmax_scale) {
  checkShape(seq, batch, heads, kv_heads, head_dim);
  AttentionArgs x = argsOf(y, qkv, seq, batch, heads, kv_heads, head_dim, softmax_scale);
  x.lse = lse.as<float>();
  const AttentionKernels& k = tableFor(x);
  split(x, k.queryTasks(x), k.forwardScratch(x), tasksOfHead(x, k), k.forward);
}

void attention_backward(const Tensor& dqkv, const Tensor& dy, const Tensor& y, const Tensor& lse, const Tensor& qkv,
                        int64_t seq, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim,
                        double softmax_scale) {
  checkShape(seq, batch, heads, kv_heads, head_dim);
  AttentionArgs x = argsOf(y, qkv, seq, batch, heads, kv_heads, head_dim, softmax_scale);
  const AttentionArgs d = argsOf(dy, dqkv, seq, batch, heads, kv_heads, head_dim, softmax_scale);
  x.dq = d.q;
  x.dk = d.k;
  x.dv = d.v;
  x.dy = d.y;
  x.lse = lse.as<float>();
  if (seq == 0 || batch == 0) return;
  const AttentionKernels& k = tableFor(x);
  const int64_t pairs = batch * kv_heads, threads = numThreads(), floats = k.backwardScratch(x);
  // Five products a block over whole pairs, or seven over finer tasks: whichever leaves the busiest thread less to do.
  const int64_t wholeRounds = (pairs + threads - 1) / threads;
  if (5 * wholeRounds * threads <= 7 * pairs || k.keyTasks(x) == pairs) {
    split(x, pairs, floats, 1, k.backwardPairs);
  } else {
    split(x, k.queryTasks(x), floats, k.queryTasks(x) / pairs, k.backwardQueries);
    split(x, k.keyTasks(x), floats, k.keyTasks(x) / pairs, k.backwardKeys);
  }
}

void attention_cached(const Tensor& y, const Tensor& keys, const Tensor& values, const Tensor& qkv, int64_t seq,
                      int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t start, int64_t max_seq,
                      double softmax_scale) {
  checkShape(seq, batch, heads, kv_heads, head_dim);
  if (start < 0 || start + seq > max_seq)
    throw std::invalid_argument("positions " + std::to_string(start) + " to " + std::to_string(start + seq) +
                                " do not fit a cache of " + std::to_string(max_seq) +
                                "; shorten the text or enlarge the cache");
  if (keys.dtype != values.dtype) throw std::invalid_argument("keys and values must have one dtype");
  if (seq == 0 || batch == 0) return;
  AttentionArgs x = argsOf(y, qkv, seq, batch, heads, kv_heads, head_dim, softmax_scale);
  x.offset = start;
  x.keys = start + seq;
  const HeadView newK = x.k, newV = x.v;
  x.k = view(keys, batch, kv_heads * head_dim, 0);
  x.v = view(values, batch, kv_heads * head_dim, 0);
  append(x.k, newK, x);
  append(x.v, newV, x);
  const AttentionKernels& k = attentionTable();
  // A prompt goes through the blocked kernel; a few tokens read the cache in place.
  if (seq * (heads / kv_heads) > 16) split(x, k.queryTasks(x), k.forwardScratch(x), tasksOfHead(x, k), k.forward);
  else split(x, batch * kv_heads, k.cachedScratch(x), 1, k.cached);
}

}  // namespace fp8lm
