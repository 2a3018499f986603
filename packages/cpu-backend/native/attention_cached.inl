// Generation: a few queries (mostly one) of each head against a long cache of keys and values. Bound by reading the cache,
// so each row is read once, in place, for all query heads of its kv head and all queries: first the scores, then
// exp(s - max) in place, then the weighted sum of the value rows.

inline int64_t cachedScratch(const AttentionArgs& x) {
  return x.queries * x.group() * (roundUp(x.keys, kLanes) + 2 * widthOf(x));
}

template <class T> inline void cachedPair(const AttentionArgs& x, float* scratch, int64_t b, int64_t kvHead) {
  const int64_t width = widthOf(x), padded = roundUp(x.keys, kLanes), rows = x.queries * x.group();  // row = query, head
  float* s = scratch;
  float* q = s + rows * padded;
  float* out = q + rows * width;
  for (int64_t row = 0; row < rows; row++)
    readRow(q + row * width, x.q, row / x.group(), b, kvHead * x.group() + row % x.group(), x.dim, x.scale);
  clear(out, rows * width);
  for (int64_t j = 0; j < x.keys; j++) {
    const T* key = static_cast<const T*>(rowOf(x.k, j, b, kvHead, x.dim));
    for (int64_t row = 0; row < rows; row++) {
      F32 sum(0.0f);
      forVectors(0, x.dim, [&](int64_t d, int64_t n) FP8_LAMBDA { sum = mulAdd(load(q + row * width + d), loadAt(key, d, n), sum); });
      s[row * padded + j] = reduceAdd(sum);
    }
  }
  for (int64_t row = 0; row < rows; row++) {
    const int64_t seen = least(x.offset + row / x.group() + 1, x.keys);
    float* p = s + row * padded;
    for (int64_t j = seen; j < padded; j++) p[j] = kMinusInf;
    F32 top = load(p);
    for (int64_t j = kLanes; j < seen; j += kLanes) top = max(top, load(p + j));
    const F32 shift(reduceMax(top));
    F32 total(0.0f);
    for (int64_t j = 0; j < seen; j += kLanes) {
      const F32 e = math::exp(load(p + j) - shift);
      store(p + j, e);
      total = total + e;
    }
    const F32 share(1.0f / reduceAdd(total));
    for (int64_t j = 0; j < seen; j += kLanes) store(p + j, load(p + j) * share);
  }
  for (int64_t j = 0; j < x.keys; j++) {
    const T* value = static_cast<const T*>(rowOf(x.v, j, b, kvHead, x.dim));
    for (int64_t row = 0; row < rows; row++) {
      if (j > x.offset + row / x.group()) continue;
      const F32 p(s[row * padded + j]);
      float* o = out + row * width;
      forVectors(0, x.dim, [&](int64_t d, int64_t n) FP8_LAMBDA { store(o + d, mulAdd(p, loadAt(value, d, n), load(o + d))); });
    }
  }
  for (int64_t row = 0; row < rows; row++)
    writeRow(x.y, row / x.group(), b, kvHead * x.group() + row % x.group(), x.dim, out + row * width, 1.0f);
}

inline void cached(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  for (int64_t pair = begin; pair < end; pair++) {
    if (x.k.dtype == DType::bf16) cachedPair<BF16>(x, scratch, pair / x.kvHeads, pair % x.kvHeads);
    else cachedPair<float>(x, scratch, pair / x.kvHeads, pair % x.kvHeads);
  }
}
