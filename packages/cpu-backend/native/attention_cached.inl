// Generation: a few queries (mostly one) of each head against a long cache of keys and values. Bound by reading the
// cache, so it is read once, in place and in memory order: position by position, and at each position pair by pair, for
// all queries at once. First all scores, then exp(s - max), then the weighted sums of the value rows.

/// The (batch, kv head) pairs that a thread works on, neighbours in each row of the cache, and its scratch. `perPair`
/// rows belong to a pair: (query, head of group), queries major.
struct CachedPairs {
  int64_t begin, count, width, padded, perPair;
  float *s, *q, *out;  // [count][perPair] rows of `padded` scores, of `width` query and output elements

  CachedPairs(const AttentionArgs& x, float* scratch, int64_t begin_, int64_t end)
      : begin(begin_),
        count(end - begin_),
        width(widthOf(x)),
        padded(roundUp(x.keys, kLanes)),
        perPair(x.queries * x.group()),
        s(scratch),
        q(s + count * perPair * padded),
        out(q + count * perPair * width) {}
};

/// Pairs a pass: bounds the scratch; 64 rows side by side are long enough to stream.
constexpr int64_t kPairs = 64;

static int64_t cachedScratch(const AttentionArgs& x) {
  return least(kPairs, x.batch * x.kvHeads) * x.queries * x.group() * (roundUp(x.keys, kLanes) + 2 * widthOf(x));
}

template <class T> void cachedScores(const AttentionArgs& x, const CachedPairs& c) {
  for (int64_t j = 0; j < x.keys; j++) {
    const T* key = static_cast<const T*>(rowOf(x.k, j, 0, c.begin, x.dim));
    const float* q = c.q;
    float* s = c.s + j;
    for (int64_t pair = 0; pair < c.count; pair++, key += x.dim)
      for (int64_t r = 0; r < c.perPair; r++, q += c.width, s += c.padded) {
        F32 sum(0.0f);
        forVectors(0, x.dim,
                   [&](int64_t d, int64_t n) FP8_LAMBDA { sum = mulAdd(load(q + d), loadAt(key, d, n), sum); });
        *s = reduceAdd(sum);
      }
  }
}

static void cachedSoftmax(float* p, int64_t seen, int64_t padded) {
  for (int64_t j = seen; j < padded; j++) p[j] = kMinusInf;
  F32 top = load(p);
  for (int64_t j = kLanes; j < seen; j += kLanes) top = max(top, load(p + j));
  const F32 shift(reduceMax(top));
  F32 total(0.0f);
  for (int64_t j = 0; j < seen; j += kLanes) {
    const F32 e = expOrZero(load(p + j) - shift);
    store(p + j, e);
    total = total + e;
  }
  const F32 share(1.0f / reduceAdd(total));
  for (int64_t j = 0; j < seen; j += kLanes) store(p + j, load(p + j) * share);
}

template <class T> void cachedOutputs(const AttentionArgs& x, const CachedPairs& c) {
  const int64_t group = x.group();
  clear(c.out, c.count * c.perPair * c.width);
  for (int64_t j = 0; j < x.keys; j++) {
    const T* value = static_cast<const T*>(rowOf(x.v, j, 0, c.begin, x.dim));
    const int64_t first = most(0, j - x.offset) * group;  // rows of earlier queries do not see position j
    for (int64_t pair = 0; pair < c.count; pair++, value += x.dim)
      for (int64_t row = pair * c.perPair + first; row < (pair + 1) * c.perPair; row++) {
        const F32 p(c.s[row * c.padded + j]);
        float* o = c.out + row * c.width;
        forVectors(0, x.dim,
                   [&](int64_t d, int64_t n) FP8_LAMBDA { store(o + d, mulAdd(p, loadAt(value, d, n), load(o + d))); });
      }
  }
}

static void cachedPass(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  const CachedPairs c(x, scratch, begin, end);
  // f(row, query, batch element, head) for all rows.
  const auto forRows = [&](auto f) {
    for (int64_t row = 0; row < c.count * c.perPair; row++) {
      const int64_t pair = begin + row / c.perPair, r = row % c.perPair;
      f(row, r / x.group(), pair / x.kvHeads, pair % x.kvHeads * x.group() + r % x.group());
    }
  };
  forRows([&](int64_t row, int64_t i, int64_t b, int64_t head) {
    readRow(c.q + row * c.width, x.q, i, b, head, x.dim, x.scale);
  });
  if (x.k.dtype == DType::bf16) cachedScores<BF16>(x, c);
  else cachedScores<float>(x, c);
  forRows([&](int64_t row, int64_t i, int64_t, int64_t) {
    cachedSoftmax(c.s + row * c.padded, x.offset + i + 1, c.padded);
  });
  if (x.v.dtype == DType::bf16) cachedOutputs<BF16>(x, c);
  else cachedOutputs<float>(x, c);
  forRows([&](int64_t row, int64_t i, int64_t b, int64_t head) {
    writeRow(x.y, i, b, head, x.dim, c.out + row * c.width, 1.0f);
  });
}

static void cached(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  for (; begin < end; begin += kPairs) cachedPass(x, scratch, begin, least(end, begin + kPairs));
}
