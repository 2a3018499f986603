// Forward of the dot variant: attention_forward.inl with scores from exact products of bf16, probabilities rounded to bf16
// for P V (their sum, the denominator, is of the float32 values), and everything in powers of two: the softmax scale times
// log2 e is multiplied in where the maximum is subtracted, one FMA.

/// Keys at a time; rows of scores are so long. More than a block, so that the output is loaded, scaled and stored less often.
constexpr int64_t kSpan = 3 * kBlock;

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

/// Scores of kDotRows rows, of which row r sees `first + r` of `columns` (all, if `whole`, and 32 divides them), to
/// probabilities p in bf16, zero up to the next multiple of 32. Updates the running maximum m (in powers of two, scale and
/// all) and denominator l, and leaves in `factor` what the earlier output of each row must be multiplied by.
template <bool whole>
static void dotSoftmax(const float* s, uint32_t* p, int64_t first, int64_t columns, float scale, float* m, float* l,
                       float* factor) {
  vf top[kDotRows];
#pragma GCC unroll 8
  for (int64_t r = 0; r < kDotRows; r++) {
    top[r] = splat(kMinusInf);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const vf v = loadRegister<vf>(s + r * kSpan + j);
      if (whole) top[r] = reg::max(v, top[r]);
      else top[r] = _mm512_mask_max_ps(top[r], __mmask16(lanesBefore(first + r - j)), v, top[r]);
    }
  }
  const vf before = _mm512_maskz_loadu_ps(0xff, m);
  const vf now = reg::max(foldRows(top, reg::max) * splat(scale), before);  // NaN: stays what it was
  _mm512_mask_storeu_ps(m, 0xff, now);
  store(factor, F32(exp2OrZero(before - now, 0xff)));
  for (int64_t r = 0; r < kDotRows; r++) {
    const float* row = s + r * kSpan;
    const vf shift = splat(-m[r]), factorOfScore = splat(scale);
    vf total = load(l + r * kLanes).a * splat(factor[r]);
#pragma GCC unroll 3
    for (int64_t j = 0; j < columns; j += 32) {
      const uint32_t seen = whole ? ~0u : lanesBefore(first + r - j);
      const vf x0 = reg::mulAdd(loadRegister<vf>(row + j), factorOfScore, shift);
      const vf x1 = reg::mulAdd(loadRegister<vf>(row + j + kLanes), factorOfScore, shift);
      const vf low = exp2OrZero(x0, __mmask16(seen)), high = exp2OrZero(x1, __mmask16(seen >> 16));
      _mm512_storeu_si512(p + (r * kSpan + j) / 2, toBf16(low, high));
      total = total + low;
      total = total + high;
    }
    store(l + r * kLanes, F32(total));
  }
}

inline int64_t dotForwardScratch(const AttentionArgs& x) {
  return DotKeys::floats(x) + kBlock * dotWidth(x) * 3 / 2 + kDotRows * kSpan * 3 / 2 + kBlock * (kLanes + 1);
}

/// One query block (rows i0 .. i0 + count of one head) against all keys it sees.
inline void forwardBlock(const AttentionArgs& x, const DotKeys& packed, float* scratch, int64_t b, int64_t head,
                         int64_t i0, int64_t count, RowsAhead& ahead) {
  const int64_t width = packed.width, padded = roundUp(count, kDotRows), columns = roundUp(x.dim, kLanes);
  float* out = scratch;
  float* s = out + kBlock * width;
  float* l = s + kDotRows * kSpan;
  float* m = l + kBlock * kLanes;
  uint32_t* q = reinterpret_cast<uint32_t*>(m + kBlock);
  uint32_t* p = q + kBlock * width / 2;
  packBf16Rows(reinterpret_cast<uint16_t*>(q), width, padded, x.q, b, head, x.dim, i0, count);
  clear(l, padded * kLanes);
  for (int64_t i = 0; i < padded; i++) m[i] = kMinusInf;
  alignas(64) float factor[kLanes];
  for (int64_t j0 = 0; j0 < x.keys && j0 <= i0 + count - 1; j0 += kSpan) {
    const int64_t present = least(kSpan, x.keys - j0);
    for (int64_t r0 = 0; r0 < count; r0 += kDotRows) {
      const int64_t first = i0 + r0 - j0 + 1;  // columns that the group's first row sees
      const int64_t seen = least(first + kDotRows - 1, present);
      if (seen <= 0) continue;
      ahead.fetch();
      for (int64_t j = 0; j < seen; j += kBlock)
        dotRows<false, Into::store>(q + r0 * width / 2, width / 2, packed.panels + (j0 + j) * width / 2, kBlock,
                                    (x.dim + 1) / 2, s + j, kSpan, roundUp(least(kBlock, seen - j), kLanes));
      if (first >= seen && seen % 32 == 0)
        dotSoftmax<true>(s, p, 0, seen, x.scale * kLog2E, m + r0, l + r0 * kLanes, factor);
      else
        dotSoftmax<false>(s, p, first, seen, x.scale * kLog2E, m + r0, l + r0 * kLanes, factor);
      const uint32_t* values = packed.values + j0 * width / 2;
      if (j0 == 0)
        dotRows<false, Into::store>(p, kSpan / 2, values, width, (seen + 1) / 2, out + r0 * width, width, columns);
      else
        dotRows<false, Into::rescale>(p, kSpan / 2, values, width, (seen + 1) / 2, out + r0 * width, width, columns,
                                      factor);
    }
  }
  for (int64_t r0 = 0; r0 < count; r0 += kDotRows) {
    vf rows[kDotRows];
    for (int64_t r = 0; r < kDotRows; r++) rows[r] = load(l + (r0 + r) * kLanes).a;
    const vf total = foldRows(rows, reg::add);
    const vf logs = reg::mulAdd(_mm512_maskz_loadu_ps(0xff, m + r0), splat(kLn2), logOf(total));
    store(factor, F32(splat(1.0f) / total));
    const int64_t n = least(kDotRows, count - r0);
    for (int64_t r = 0; r < n; r++)
      writeDotRow(x.y, i0 + r0 + r, b, head, x.dim, out + (r0 + r) * width, factor[r]);
    if (x.lse) _mm512_mask_storeu_ps(x.lse + (b * x.heads + head) * x.queries + i0 + r0, __mmask16(lanesBefore(n)), logs);
  }
}
