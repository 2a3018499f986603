// Forward of the dot variant: attention_forward.inl with scores from exact products of bf16, probabilities rounded to bf16
// for P V (their sum, the denominator, is of the float32 values), and everything in powers of two: the softmax scale times
// log2 e is multiplied in where the maximum is subtracted, one FMA.

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

/// K as panels and V as zipped rows, of one (batch, kv head).
struct DotKeys {
  int64_t width;
  uint32_t *panels, *values;
  static int64_t floats(const AttentionArgs& x) { return blocksOf(x.keys) * kBlock * dotWidth(x) * 3 / 2; }

  DotKeys(const AttentionArgs& x, float* scratch)
      : width(dotWidth(x)),
        panels(reinterpret_cast<uint32_t*>(scratch)),
        values(panels + blocksOf(x.keys) * kBlock * width / 2) {}

  void pack(const AttentionArgs& x, int64_t b, int64_t head) {
    const int64_t padded = roundUp(x.keys, kLanes);
    uint16_t* rows = reinterpret_cast<uint16_t*>(values + blocksOf(x.keys) * kBlock * width / 2);
    packBf16Rows(rows, width, padded, x.k, b, head, x.dim, 0, x.keys);
    packDotPanels(panels, rows, width, x.keys);
    packBf16Rows(rows, width, padded, x.v, b, head, x.dim, 0, x.keys);
    zipRows(values, rows, width, x.keys);
  }
};

/// Scores of kDotRows rows, of which row r sees `first + r` columns and, if `whole`, all kBlock, to probabilities p in
/// bf16, zero up to `columns`. Updates the running maximum m (times scale, log2 e) and denominator l.
template <bool whole>
static void dotSoftmax(const float* s, uint32_t* p, int64_t first, int64_t columns, float scale, float* m, float* l,
                       float* factor) {
  float gap[kLanes] = {};
  for (int64_t r = 0; r < kDotRows; r++) {
    const float* row = s + r * kBlock;
    vf top = splat(kMinusInf);
#pragma GCC unroll 6
    for (int64_t j = 0; j < (whole ? kBlock : columns); j += kLanes) {
      const vf x = loadRegister<vf>(row + j);
      top = whole ? _mm512_max_ps(x, top) : (vf)_mm512_mask_max_ps(top, __mmask16(lanesBefore(first + r - j)), x, top);
    }
    const float before = m[r], now = reduceMax(top) * scale;
    m[r] = now > before ? now : before;
    gap[r] = before - m[r];
  }
  store(factor, F32(exp2OrZero(load(gap).a, 0xffff)));
  for (int64_t r = 0; r < kDotRows; r++) {
    const float* row = s + r * kBlock;
    const vf shift = splat(-m[r]), factorOfScore = splat(scale);
    vf total = load(l + r * kLanes).a * splat(factor[r]);
#pragma GCC unroll 3
    for (int64_t j = 0; j < (whole ? kBlock : columns); j += 32) {
      const uint32_t seen = whole ? ~0u : lanesBefore(first + r - j);
      const vf low = exp2OrZero(reg::mulAdd(loadRegister<vf>(row + j), factorOfScore, shift), __mmask16(seen));
      const vf high = exp2OrZero(reg::mulAdd(loadRegister<vf>(row + j + kLanes), factorOfScore, shift), __mmask16(seen >> 16));
      _mm512_storeu_si512(p + (r * kBlock + j) / 2, toBf16(low, high));
      total = total + low;
      total = total + high;
    }
    store(l + r * kLanes, F32(total));
  }
}

inline int64_t dotForwardScratch(const AttentionArgs& x) {
  return DotKeys::floats(x) + kBlock * dotWidth(x) * 3 / 2 + kDotRows * kBlock * 3 / 2 + kBlock * (kLanes + 1);
}

/// One query block (rows i0 .. i0 + count of one head) against all keys it sees.
inline void forwardBlock(const AttentionArgs& x, const DotKeys& packed, float* scratch, int64_t b, int64_t head,
                         int64_t i0, int64_t count) {
  const int64_t width = packed.width, padded = roundUp(count, kDotRows), columns = roundUp(x.dim, kLanes);
  float* out = scratch;
  float* s = out + kBlock * width;
  float* l = s + kDotRows * kBlock;
  float* m = l + kBlock * kLanes;
  uint32_t* q = reinterpret_cast<uint32_t*>(m + kBlock);
  uint32_t* p = q + kBlock * width / 2;
  packBf16Rows(reinterpret_cast<uint16_t*>(q), width, padded, x.q, b, head, x.dim, i0, count);
  clear(out, padded * width);
  clear(l, padded * kLanes);
  for (int64_t i = 0; i < padded; i++) m[i] = kMinusInf;
  alignas(64) float factor[kLanes];
  for (int64_t j0 = 0; j0 < x.keys && j0 <= i0 + count - 1; j0 += kBlock) {
    const int64_t present = least(kBlock, x.keys - j0);
    for (int64_t r0 = 0; r0 < count; r0 += kDotRows) {
      const int64_t first = i0 + r0 - j0 + 1;  // columns that the group's first row sees
      const int64_t seen = least(first + kDotRows - 1, present);
      if (seen <= 0) continue;
      dotRows<false, Into::store>(q + r0 * width / 2, width / 2, packed.panels + j0 * width / 2, kBlock, (x.dim + 1) / 2,
                                  s, kBlock, roundUp(seen, kLanes));
      if (first >= kBlock && present == kBlock)
        dotSoftmax<true>(s, p, 0, kBlock, x.scale * kLog2E, m + r0, l + r0 * kLanes, factor);
      else
        dotSoftmax<false>(s, p, first, seen, x.scale * kLog2E, m + r0, l + r0 * kLanes, factor);
      dotRows<false, Into::rescale>(p, kBlock / 2, packed.values + j0 * width / 2, width, (seen + 1) / 2, out + r0 * width,
                                    width, columns, factor);
    }
  }
  for (int64_t i = 0; i < count; i++) {
    const float total = reduceAdd(load(l + i * kLanes));
    writeRow(x.y, i0 + i, b, head, x.dim, out + i * width, 1.0f / total);
    if (x.lse) x.lse[(b * x.heads + head) * x.queries + i0 + i] = m[i] * kLn2 + __builtin_logf(total);
  }
}
