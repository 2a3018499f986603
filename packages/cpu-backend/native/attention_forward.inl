// Flash-style forward (Dao et al. 2022, arXiv:2205.14135): one block of queries against one block of keys at a time,
// with a running maximum m and denominator l a row, so that no T x T matrix exists. Blocks above the diagonal are
// skipped, and within a diagonal block each group of kRows queries only sees the columns it needs.

/// K as panels and V as rows, of one (batch, kv head).
struct PackedKeys {
  static constexpr int64_t kRowGroup = kRows, kPass = kBlock;  // queries and keys at a time
  float *panels, *values;
  int64_t width;
  static int64_t floats(const AttentionArgs& x) { return 2 * blocksOf(x.keys) * kBlock * widthOf(x); }

  PackedKeys(const AttentionArgs& x, float* scratch)
      : panels(scratch), values(scratch + floats(x) / 2), width(widthOf(x)) {}

  void pack(const AttentionArgs& x, int64_t b, int64_t head) {
    const int64_t padded = roundUp(x.keys, kLanes);
    packRows(values, width, padded, x.k, b, head, x.dim, 0, x.keys);  // K passes through the place of V
    packPanels(panels, values, width, x.keys);
    packRows(values, width, padded, x.v, b, head, x.dim, 0, x.keys);
  }
};

/// Turns kRows rows of scores (`columns` wide, a multiple of 16; -inf where masked) into exp(s - m); updates m and l
/// and leaves in `factor` what the earlier output of each row must be multiplied by.
static void softmaxRows(float* s, int64_t columns, float* m, float* l, float* factor) {
  float gap[kLanes] = {};
  for (int r = 0; r < kRows; r++) {
    const float* row = s + r * kBlock;
    F32 top = load(row);
    for (int64_t j = kLanes; j < columns; j += kLanes) top = max(top, load(row + j));
    const float before = m[r], now = reduceMax(top);
    m[r] = now > before ? now : before;
    gap[r] = before - m[r];
  }
  store(factor, expOrZero(load(gap)));
  for (int r = 0; r < kRows; r++) {
    float* row = s + r * kBlock;
    const F32 shift(m[r]);
    F32 total = load(l + r * kLanes) * F32(factor[r]);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const F32 p = expOrZero(load(row + j) - shift);
      store(row + j, p);
      total = total + p;
    }
    store(l + r * kLanes, total);
  }
}

inline int64_t forwardScratch(const AttentionArgs& x) {
  return PackedKeys::floats(x) + 2 * kBlock * widthOf(x) + kRows * kBlock + kBlock * (kLanes + 1);
}

/// One query block (rows i0 .. i0 + count of one head) against all keys it sees.
inline void forwardBlock(const AttentionArgs& x, const PackedKeys& packed, float* scratch, int64_t b, int64_t head,
                         int64_t i0, int64_t count, RowsAhead& ahead) {
  const int64_t width = packed.width, padded = roundUp(count, kRows);
  float* q = scratch;
  float* out = q + kBlock * width;
  float* s = out + kBlock * width;
  float* l = s + kRows * kBlock;
  float* m = l + kBlock * kLanes;
  packRows(q, width, padded, x.q, b, head, x.dim, i0, count, x.scale);
  clear(out, padded * width);
  clear(l, padded * kLanes);
  for (int64_t i = 0; i < padded; i++) m[i] = kMinusInf;
  alignas(64) float factor[kLanes];
  for (int64_t j0 = 0; j0 < x.keys && j0 <= x.offset + i0 + count - 1; j0 += kBlock) {
    const float* keys = packed.panels + j0 * width;
    const float* values = packed.values + j0 * width;
    for (int64_t r0 = 0; r0 < count; r0 += kRows) {
      const int64_t first = x.offset + i0 + r0 - j0;  // last column that the group's first row sees
      const int64_t seen = least(first + kRows, least(kBlock, x.keys - j0));
      if (seen <= 0) continue;
      ahead.fetch();
      if (j0 == 0) askToWrite(x.y, b, head, x.dim, i0 + r0, least(kRows, count - r0));
      const int64_t columns = roundUp(seen, kLanes);
      rowGroup<false, Into::store>(q + r0 * width, width, keys, kBlock, x.dim, s, kBlock, columns);
      for (int64_t r = 0; r < kRows; r++)
        for (int64_t j = most(0, least(first + r + 1, seen)); j < columns; j++) s[r * kBlock + j] = kMinusInf;
      softmaxRows(s, columns, m + r0, l + r0 * kLanes, factor);
      rowGroup<false, Into::rescale>(s, kBlock, values, width, seen, out + r0 * width, width, width, factor);
    }
  }
  for (int64_t i = 0; i < count; i++) {
    const float total = reduceAdd(load(l + i * kLanes));
    writeRow(x.y, i0 + i, b, head, x.dim, out + i * width, 1.0f / total);
    if (x.lse) x.lse[(b * x.heads + head) * x.queries + i0 + i] = m[i] + __builtin_logf(total);
  }
}
