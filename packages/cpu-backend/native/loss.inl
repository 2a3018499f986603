// Softmax cross-entropy over rows of logits, gradient in place, for one instruction set. Three passes over a row: its
// maximum, the sum of exp(x - max), the gradient. A row (50304 bf16 = 100 kB) stays in L2 between them, so recomputing
// exp is cheaper than keeping its results.
#include "loss.h"

#include "vec.h"

namespace fp8lm::FP8_VEC {
namespace {

constexpr float kMinusInf = -__builtin_inff();

template <class T> FP8_INLINE F32 loadLogits(const T* row, int64_t i, int64_t n) {
  if (n == kLanes) return load(row + i);
  float lanes[kLanes];
  store(lanes, loadTail(row + i, n));
  for (int64_t k = n; k < kLanes; k++) lanes[k] = kMinusInf;  // exp gives 0, max ignores it
  return load(lanes);
}

FP8_INLINE float oneOf(const float* row, int64_t i) { return row[i]; }
FP8_INLINE float oneOf(const BF16* row, int64_t i) { return decodeBF16(row[i].bits); }
FP8_INLINE void putOne(float* row, int64_t i, float x) { row[i] = x; }
FP8_INLINE void putOne(BF16* row, int64_t i, float x) { row[i].bits = fp8lm::encodeBF16(x); }

template <class T> void fillRow(T* row, int64_t vocab, float x) {
  forVectors(0, vocab, [&](int64_t i, int64_t n) FP8_LAMBDA { storeAt(row, i, F32(x), n); });
}

/// Four running values of f over a row, combined: one chain would wait for itself.
template <class T, class F, class Merge>
FP8_INLINE F32 foldRow(const T* row, int64_t vocab, F32 start, F f, Merge merge) {
  F32 a = start, b = start, c = start, d = start;
  int64_t i = 0;
  for (; i + 4 * kLanes <= vocab; i += 4 * kLanes) {
    a = f(a, load(row + i));
    b = f(b, load(row + i + kLanes));
    c = f(c, load(row + i + 2 * kLanes));
    d = f(d, load(row + i + 3 * kLanes));
  }
  forVectors(i, vocab, [&](int64_t j, int64_t n) FP8_LAMBDA { a = f(a, loadLogits(row, j, n)); });
  return merge(merge(a, b), merge(c, d));
}

/// Sum of x - shift over the row; the -inf of unused lanes stays out.
template <class T> float sumShifted(const T* row, int64_t vocab, F32 shift) {
  F32 sum(0.0f);
  forVectors(0, vocab,
             [&](int64_t i, int64_t n) FP8_LAMBDA { sum = sum + firstLanes(loadLogits(row, i, n) - shift, n); });
  return sumLanes(sum);
}

template <class T> float lossRow(const LossArgs& a, T* row, int64_t target) {
  const int64_t vocab = a.vocab;
  const auto larger = [](F32 x, F32 y) FP8_LAMBDA { return max(x, y); };
  const auto plus = [](F32 x, F32 y) FP8_LAMBDA { return x + y; };
  const float top = maxLanes(foldRow(row, vocab, F32(kMinusInf), larger, larger));
  const F32 shift(top);
  const auto addExp = [&](F32 total, F32 x) FP8_LAMBDA { return total + math::exp(x - shift); };
  const float total = sumLanes(foldRow(row, vocab, F32(0.0f), addExp, plus));
  const double sum = double(total), log = __builtin_log(sum), e = a.smoothing;
  double loss = (1 - e) * (log - (double(oneOf(row, target)) - double(top)));
  if (e > 0) loss += e * (log - double(sumShifted(row, vocab, shift)) / double(vocab));
  if (a.backward) {
    const float everywhere = float(e / double(vocab)), inverse = float(1 / sum);
    const float p = math::exp(oneOf(row, target) - top) * inverse;
    const F32 share(inverse), less(everywhere), gain(a.gradScale);
    forVectors(0, vocab, [&](int64_t i, int64_t n) FP8_LAMBDA {
      storeAt(row, i, (math::exp(loadLogits(row, i, n) - shift) * share - less) * gain, n);
    });
    putOne(row, target, (p - float(1 - e) - everywhere) * a.gradScale);
  }
  return float(loss);
}

template <class T> void rowsOf(const LossArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; r++) {
    T* row = a.logits->as<T>() + r * a.stride;
    if (a.backward) fillRow(row + a.vocab, a.stride - a.vocab, 0.0f);
    const int64_t target = a.targets[r];
    if (target >= 0 && target < a.vocab) {
      a.loss[r] = lossRow(a, row, target);
      continue;
    }
    // An ignored row adds nothing. A target that no logit belongs to must not pass unnoticed: NaN, in the gradient too.
    a.loss[r] = target < 0 ? 0.0f : __builtin_nanf("");
    if (a.backward) fillRow(row, a.vocab, a.loss[r]);
  }
}

void rows(const LossArgs& a, int64_t begin, int64_t end) {
  if (a.logits->dtype == DType::bf16) rowsOf<BF16>(a, begin, end);
  else rowsOf<float>(a, begin, end);
}

const auto larger = [](F32 x, F32 y) FP8_LAMBDA { return max(x, y); };
const auto plus = [](F32 x, F32 y) FP8_LAMBDA { return x + y; };

template <class T> void statsOf(const ShardArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; r++) {
    const T* row = a.logits->as<T>() + r * a.vocab;
    const int64_t target = int64_t(a.targets[r]) - a.vocabStart;
    const float top = maxLanes(foldRow(row, a.vocab, F32(kMinusInf), larger, larger));
    const F32 shift(top);
    const auto addExp = [&](F32 total, F32 x) FP8_LAMBDA { return total + math::exp(x - shift); };
    float* stats = a.stats + 4 * r;
    stats[0] = top;
    stats[1] = sumLanes(foldRow(row, a.vocab, F32(0.0f), addExp, plus));
    stats[2] = target >= 0 && target < a.vocab ? oneOf(row, target) : 0.0f;
    stats[3] = sumShifted(row, a.vocab, F32(0.0f));
  }
}

/// Loss of row r from all slices' stats; `top` and `sum` of its softmax.
double lossOfStats(const ShardArgs& a, int64_t r, float& top, double& sum) {
  const auto of = [&](int64_t p) { return a.stats + 4 * (p * a.rows + r); };
  top = kMinusInf;
  // A NaN must win, as it does in the vector maximum's sum.
  for (int64_t p = 0; p < a.parts; p++) top = of(p)[0] > top || of(p)[0] != of(p)[0] ? of(p)[0] : top;
  double logit = 0, all = 0;
  sum = 0;
  for (int64_t p = 0; p < a.parts; p++) {
    sum += double(of(p)[1]) * __builtin_exp(double(of(p)[0]) - double(top));
    logit += double(of(p)[2]);
    all += double(of(p)[3]);
  }
  const double log = __builtin_log(sum), e = a.smoothing;
  double loss = (1 - e) * (log - (logit - double(top)));
  if (e > 0) loss += e * (log - (all / double(a.total) - double(top)));
  return loss;
}

template <class T> void shardOf(const ShardArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; r++) {
    T* row = a.logits->as<T>() + r * a.vocab;
    if (a.targets[r] < 0 || a.targets[r] >= a.total) {
      a.loss[r] = a.targets[r] < 0 ? 0.0f : __builtin_nanf("");
      if (a.backward) fillRow(row, a.vocab, a.loss[r]);
      continue;
    }
    float top;
    double sum;
    a.loss[r] = float(lossOfStats(a, r, top, sum));
    if (!a.backward) continue;
    const int64_t target = int64_t(a.targets[r]) - a.vocabStart;
    const bool owned = target >= 0 && target < a.vocab;
    const float everywhere = float(a.smoothing / double(a.total)), inverse = float(1 / sum);
    const float p = owned ? math::exp(oneOf(row, target) - top) * inverse : 0.0f;
    const F32 shift(top), share(inverse), less(everywhere), gain(a.gradScale);
    forVectors(0, a.vocab, [&](int64_t i, int64_t n) FP8_LAMBDA {
      storeAt(row, i, (math::exp(loadLogits(row, i, n) - shift) * share - less) * gain, n);
    });
    if (owned) putOne(row, target, (p - float(1 - a.smoothing) - everywhere) * a.gradScale);
  }
}

void stats(const ShardArgs& a, int64_t begin, int64_t end) {
  if (a.logits->dtype == DType::bf16) statsOf<BF16>(a, begin, end);
  else statsOf<float>(a, begin, end);
}

void shard(const ShardArgs& a, int64_t begin, int64_t end) {
  if (a.logits->dtype == DType::bf16) shardOf<BF16>(a, begin, end);
  else shardOf<float>(a, begin, end);
}

}  // namespace

const LossTable loss = {rows, stats, shard};

}  // namespace fp8lm::FP8_VEC
