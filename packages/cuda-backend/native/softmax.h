// One row of logits as the threads of a block share it: 16 bytes at once, whichever address the row begins at, and as much of
// it as registers hold read from memory only once. What they do not hold is read again, by then from the L2 cache.
#pragma once
#include <cfloat>
#include <cmath>

#include "context.h"
#include "words.h"

namespace fp8lm {

constexpr int kRowThreads = 512, kRowBlocks = 2;  // two blocks a multiprocessor: one computes while the other waits for memory
constexpr int kHeld = 5;                          // vectors of a row that a thread keeps in registers

constexpr float kLog2E = 1.44269504f;

/// e^(x - top) for x <= top; the base-2 exponential of the hardware, relative error about 1e-6 where it counts.
__device__ __forceinline__ float expFrom(float x, float top) { return fastExp2(math::mul(math::sub(x, top), kLog2E)); }

/// max, sum of e^(x - max) and, if wanted, sum of x, of what a thread has seen. Starts at the lowest finite number, so that
/// -inf logits count as 0.
template <bool total_> struct SoftmaxStats {
  float top = -FLT_MAX, sum = 0.0f, total = 0.0f;

  template <int n> __device__ __forceinline__ void add(const float (&v)[n]) {
    float m = v[0];
#pragma unroll
    for (int k = 1; k < n; k++) m = v[k] > m ? v[k] : m;
    if (m > top) {
      sum = math::mul(sum, expFrom(top, m));
      top = m;
    }
#pragma unroll
    for (int k = 0; k < n; k++) {
      sum += expFrom(v[k], top);
      if constexpr (total_) total += v[k];
    }
  }
  /// Of all threads, in each of them.
  __device__ __forceinline__ SoftmaxStats ofBlock() const {
    SoftmaxStats all;
    all.top = blockReduce<Reduce::max>(top);
    all.sum = blockReduce<Reduce::sum>(math::mul(sum, expFrom(top, all.top)));
    if constexpr (total_) all.total = blockReduce<Reduce::sum>(total);
    return all;
  }
};

/// `held` vectors of 16 bytes a thread stay in registers between `read` and `rewrite`.
template <DType L, int held> class Row {
 public:
  static constexpr int per = 16 / sizeof(Code<L>);

  /// @param before elements from the last multiple of 16 bytes to the row
  __device__ __forceinline__ Row(Ptr<Code<L>> row, int64_t size, int before) : row_(row) {
    const int head = (per - before) % per;
    head_ = head < size ? head : int(size);
    vectors_ = int((size - head_) / per);
    // The elements around the vectors: one each for the first threads of two warps.
    const int tail = int(size - head_ - int64_t(vectors_) * per), t = int(threadIdx.x);
    edge_ = t < head_ ? t : t >= kWarp && t - kWarp < tail ? int64_t(head_) + int64_t(vectors_) * per + t - kWarp : -1;
  }

  template <class Take> __device__ __forceinline__ void read(Take& take) {
#pragma unroll
    for (int j = 0; j < held; j++) {
      const int i = int(threadIdx.x) + j * kRowThreads;
      if (i < vectors_) kept_[j] = loadWords(row_, at(i));
    }
#pragma unroll
    for (int j = 0; j < held; j++)
      if (int(threadIdx.x) + j * kRowThreads < vectors_) give(take, kept_[j]);
    constexpr int ahead = 4;
    for (int i = int(threadIdx.x) + held * kRowThreads; i < vectors_; i += ahead * kRowThreads) {
      Words more[ahead];
#pragma unroll
      for (int q = 0; q < ahead; q++)
        if (i + q * kRowThreads < vectors_) more[q] = loadWords(row_, at(i + q * kRowThreads));
#pragma unroll
      for (int q = 0; q < ahead; q++)
        if (i + q * kRowThreads < vectors_) give(take, more[q]);
    }
    if (edge_ >= 0) {
      const float v[1] = {Form<L>::decode(row_[edge_])};
      take.add(v);
    }
  }

  /// Replaces each x by f(x); after `read`, if anything is held.
  template <class F> __device__ __forceinline__ void rewrite(const F& f) {
#pragma unroll
    for (int j = 0; j < held; j++) {
      const int i = int(threadIdx.x) + j * kRowThreads;
      if (i < vectors_) put(f, i, kept_[j]);
    }
    constexpr int ahead = 4;
    for (int i = int(threadIdx.x) + held * kRowThreads; i < vectors_; i += ahead * kRowThreads) {
      Words more[ahead];
#pragma unroll
      for (int q = 0; q < ahead; q++)
        if (i + q * kRowThreads < vectors_) more[q] = loadWords(row_, at(i + q * kRowThreads));
#pragma unroll
      for (int q = 0; q < ahead; q++)
        if (i + q * kRowThreads < vectors_) put(f, i + q * kRowThreads, more[q]);
    }
    if (edge_ >= 0) row_[edge_] = Form<L>::encode(f(Form<L>::decode(row_[edge_])));
  }

  __device__ __forceinline__ void clear() const {
    for (int i = int(threadIdx.x); i < vectors_; i += kRowThreads) storeWords(row_, at(i), Words{});
    if (edge_ >= 0) row_[edge_] = Code<L>(0);
  }

 private:
  __device__ __forceinline__ int64_t at(int i) const { return head_ + int64_t(i) * per; }
  template <class Take> static __device__ __forceinline__ void give(Take& take, const Words& w) {
    float v[per];
#pragma unroll
    for (int k = 0; k < 4; k++) decodeWord<L>(w.v[k], v + k * kPerWord<L>);
    take.add(v);
  }
  template <class F> __device__ __forceinline__ void put(const F& f, int i, const Words& w) const {
    Words out;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      float v[kPerWord<L>];
      decodeWord<L>(w.v[k], v);
#pragma unroll
      for (int q = 0; q < kPerWord<L>; q++) v[q] = f(v[q]);
      out.v[k] = encodeWord<L>(v);
    }
    storeWords(row_, at(i), out);
  }

  Ptr<Code<L>> row_;
  int head_, vectors_;
  int64_t edge_;
  Words kept_[held ? held : 1];
};

}  // namespace fp8lm
