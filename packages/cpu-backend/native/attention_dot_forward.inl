// Forward of the dot variant: attention_forward.inl with scores from exact products of bf16, probabilities rounded to bf16
// for P V (their sum, the denominator, is of the float32 values), and everything in powers of two: the softmax scale times
// log2 e is multiplied in where the maximum is subtracted, one FMA.

/// Keys at a time; rows of scores are so long. More than a block, so that the output is loaded, scaled and stored less often.
constexpr int64_t kSpan = 3 * kBlock;

/// Groups of rows at a time: what one waits for, the other computes, and the keys they share stay in the L1 cache.
constexpr int64_t kTwo = 2;

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

/// K as panels and V as zipped rows, of one (batch, kv head).
struct DotKeys {
  static constexpr int64_t kRowGroup = kDotRows, kPass = kSpan;
  int64_t width;
  uint32_t *panels, *values;
  uint16_t* copy;
  static int64_t floats(const AttentionArgs& x) { return (blocksOf(x.keys) * kBlock + kLanes / 2) * dotWidth(x); }

  DotKeys(const AttentionArgs& x, float* scratch)
      : width(dotWidth(x)),
        panels(reinterpret_cast<uint32_t*>(scratch)),
        values(panels + blocksOf(x.keys) * kBlock * width / 2),
        copy(reinterpret_cast<uint16_t*>(values + blocksOf(x.keys) * kBlock * width / 2)) {}

  void pack(const AttentionArgs& x, int64_t b, int64_t head) {
    forSixteenRows(x.k, b, head, x.dim, width, x.keys, copy, [&](int64_t t, const uint16_t* rows, int64_t stride)
                       FP8_LAMBDA { packPanel(panels, t, rows, stride, width); });
    forSixteenRows(x.v, b, head, x.dim, width, x.keys, copy, [&](int64_t t, const uint16_t* rows, int64_t stride)
                       FP8_LAMBDA { zipRows(values, t, rows, stride, width); });
  }
};

/// A group of kDotRows rows against a span of keys: row r sees `first + r` columns, the last of them `seen`.
struct DotGroup {
  int64_t first, seen;
  float *s, *m, *l;  // scores; the running maximum (in powers of two, scale and all) and denominator
  uint32_t* p;       // probabilities
  float* factor;     // what the earlier output of each row must be multiplied by
};

/// Updates m and leaves the factors.
FP8_INLINE void dotMaxima(const DotGroup& g, float scale) {
  vf top[kDotRows];
  const int64_t whole = least(g.first, g.seen) / kLanes * kLanes;
#pragma GCC unroll 8
  for (int64_t r = 0; r < kDotRows; r++) {
    top[r] = splat(kMinusInf);
    for (int64_t j = 0; j < whole; j += kLanes) top[r] = reg::max(loadRegister<vf>(g.s + r * kSpan + j), top[r]);
    for (int64_t j = whole; j < g.seen; j += kLanes)
      top[r] = _mm512_mask_max_ps(top[r], __mmask16(lanesBefore(g.first + r - j)), loadRegister<vf>(g.s + r * kSpan + j),
                                  top[r]);
  }
  const vf before = _mm512_maskz_loadu_ps(0xff, g.m);
  const vf now = reg::max(foldRows(top, reg::max) * splat(scale), before);  // NaN: stays what it was
  _mm512_mask_storeu_ps(g.m, 0xff, now);
  _mm512_store_ps(g.factor, exp2OrZero(before - now, 0xff));
}

/// Scores to probabilities in bf16, zero from what a row sees to the next multiple of 32; updates l.
FP8_INLINE void dotExponentials(const DotGroup& g, float scale) {
  const int64_t whole = least(g.first, g.seen) / 32 * 32;
  for (int64_t r = 0; r < kDotRows; r++) {
    const float* row = g.s + r * kSpan;
    const vf shift = splat(-g.m[r]), factorOfScore = splat(scale);
    vf total = load(g.l + r * kLanes).a * splat(g.factor[r]);
    const auto two = [&](int64_t j, uint32_t seen) FP8_LAMBDA {
      const vf x0 = reg::mulAdd(loadRegister<vf>(row + j), factorOfScore, shift);
      const vf x1 = reg::mulAdd(loadRegister<vf>(row + j + kLanes), factorOfScore, shift);
      const vf low = exp2OrZero(x0, __mmask16(seen)), high = exp2OrZero(x1, __mmask16(seen >> 16));
      _mm512_storeu_si512(g.p + (r * kSpan + j) / 2, toBf16(low, high));
      total = total + low;
      total = total + high;
    };
    for (int64_t j = 0; j < whole; j += 32) two(j, ~0u);
    for (int64_t j = whole; j < g.seen; j += 32) two(j, lanesBefore(g.first + r - j));
    store(g.l + r * kLanes, F32(total));
  }
}

inline int64_t dotForwardScratch(const AttentionArgs& x) {
  return DotKeys::floats(x) + kBlock * dotWidth(x) * 3 / 2 + kTwo * kDotRows * kSpan * 3 / 2 + kBlock * (kLanes + 1);
}

/// One query block (rows i0 .. i0 + count of one head) against all keys it sees.
inline void forwardBlock(const AttentionArgs& x, const DotKeys& packed, float* scratch, int64_t b, int64_t head,
                         int64_t i0, int64_t count, RowsAhead& ahead) {
  const int64_t width = packed.width, padded = roundUp(count, kDotRows), columns = roundUp(x.dim, kLanes);
  float* out = scratch;
  float* s = out + kBlock * width;
  float* l = s + kTwo * kDotRows * kSpan;
  float* m = l + kBlock * kLanes;
  uint32_t* q = reinterpret_cast<uint32_t*>(m + kBlock);
  uint32_t* p = q + kBlock * width / 2;
  packBf16Rows(reinterpret_cast<uint16_t*>(q), width, padded, x.q, b, head, x.dim, i0, count);
  clear(l, padded * kLanes);
  for (int64_t i = 0; i < padded; i++) m[i] = kMinusInf;
  alignas(64) float factor[kTwo][kLanes];
  const float scale = x.scale * kLog2E;
  for (int64_t j0 = 0; j0 < x.keys && j0 <= i0 + count - 1; j0 += kSpan) {
    const int64_t present = least(kSpan, x.keys - j0);
    for (int64_t r0 = 0; r0 < count; r0 += kTwo * kDotRows) {
      const auto forGroups = [&](auto f) FP8_LAMBDA {
        for (int64_t i = 0; i < kTwo; i++) {
          const int64_t r = r0 + i * kDotRows, first = i0 + r - j0 + 1;
          const int64_t seen = least(first + kDotRows - 1, present);
          if (r < count && seen > 0)
            f(r, DotGroup{first, seen, s + i * kDotRows * kSpan, m + r, l + r * kLanes, p + i * kDotRows * kSpan / 2,
                          factor[i]});
        }
      };
      for (int64_t j = 0; j < present; j += kBlock)  // a panel of keys, in the L1 cache, for both groups
        forGroups([&](int64_t r, const DotGroup& g) {
          if (j == 0) ahead.fetch();
          if (j0 + j == 0) askToWrite(x.y, b, head, x.dim, i0 + r, least(kDotRows, count - r));
          if (j < g.seen)
            dotRows<false, Into::store>(q + r * width / 2, width / 2, packed.panels + (j0 + j) * width / 2, kBlock,
                                        (x.dim + 1) / 2, g.s + j, kSpan, roundUp(least(kBlock, g.seen - j), kLanes));
        });
      forGroups([&](int64_t, const DotGroup& g) { dotMaxima(g, scale); });
      forGroups([&](int64_t, const DotGroup& g) { dotExponentials(g, scale); });
      forGroups([&](int64_t r, const DotGroup& g) {
        const auto product = j0 == 0 ? dotRows<false, Into::store> : dotRows<false, Into::rescale>;
        product(g.p, kSpan / 2, packed.values + j0 * width / 2, width, (g.seen + 1) / 2, out + r * width, width, columns,
                g.factor);
      });
    }
  }
  for (int64_t r0 = 0; r0 < count; r0 += kDotRows) {
    vf rows[kDotRows];
    for (int64_t r = 0; r < kDotRows; r++) rows[r] = load(l + (r0 + r) * kLanes).a;
    const vf total = foldRows(rows, reg::add);
    const vf logs = reg::mulAdd(_mm512_maskz_loadu_ps(0xff, m + r0), splat(kLn2), logOf(total));
    _mm512_store_ps(factor[0], splat(1.0f) / total);
    const int64_t n = least(kDotRows, count - r0);
    for (int64_t r = 0; r < n; r++)
      writeDotRow(x.y, i0 + r0 + r, b, head, x.dim, out + (r0 + r) * width, factor[0][r]);
    if (x.lse) _mm512_mask_storeu_ps(x.lse + (b * x.heads + head) * x.queries + i0 + r0, __mmask16(lanesBefore(n)), logs);
  }
}
