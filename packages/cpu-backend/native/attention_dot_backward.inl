// Backward of the dot variant: attention_backward.inl with Q K^T and dO V^T from exact products of bf16, and P and dS rounded
// to bf16 for the other three. These differ in what they sum over: dQ = dS K over keys reads dS as it lies, pairs along a
// row; dV = P^T dO and dK = dS^T Q sum over queries and read pairs of rows, zipped.

/// All operands of one (batch, kv head) and one of its query heads, packed.
struct DotPair {
  static constexpr int64_t kRowGroup = kDotRows;
  int64_t width, queries, keys;               // the latter two padded to whole blocks
  uint32_t *kZipped, *kPanels, *vPanels;      // per pair
  uint32_t *q, *qZipped, *dy, *dyZipped;      // per head
  float *lse, *delta;                         // per head; lse times log2 e
  float *dq, *dk, *dv;
  float *s, *dp;                              // [kDotRows][kBlock] scores, dO V^T
  uint32_t *ds, *pZipped, *dsZipped;          // [kDotRows][kBlock / 2]; [kBlock / 2][kBlock]

  static int64_t floats(const AttentionArgs& x) {
    const int64_t queries = blocksOf(x.queries) * kBlock, keys = blocksOf(x.keys) * kBlock;
    return (7 * keys + 6 * queries) * dotWidth(x) / 2 + 2 * queries + kDotRows * kBlock * 5 / 2 + kBlock * kBlock;
  }

  DotPair(const AttentionArgs& x, float* scratch)
      : width(dotWidth(x)), queries(blocksOf(x.queries) * kBlock), keys(blocksOf(x.keys) * kBlock) {
    auto take = [&](int64_t n) {
      float* start = scratch;
      scratch += n;
      return start;
    };
    auto takePairs = [&](int64_t n) { return reinterpret_cast<uint32_t*>(take(n)); };
    kZipped = takePairs(keys * width / 2);
    kPanels = takePairs(keys * width / 2);
    vPanels = takePairs(keys * width / 2);
    dk = take(keys * width);
    dv = take(keys * width);
    q = takePairs(queries * width / 2);
    qZipped = takePairs(queries * width / 2);
    dy = takePairs(queries * width / 2);
    dyZipped = takePairs(queries * width / 2);
    dq = take(queries * width);
    s = take(kDotRows * kBlock);
    dp = take(kDotRows * kBlock);
    ds = takePairs(kDotRows * kBlock / 2);
    pZipped = takePairs(kBlock * kBlock / 2);
    dsZipped = takePairs(kBlock * kBlock / 2);
    lse = take(queries);
    delta = take(queries);
  }

  void packKeys(const AttentionArgs& x, int64_t b, int64_t kvHead) {
    uint16_t* rows = reinterpret_cast<uint16_t*>(dk);  // V and K pass through the place of dk
    const int64_t padded = roundUp(x.keys, kLanes);
    packBf16Rows(rows, width, padded, x.v, b, kvHead, x.dim, 0, x.keys);
    packDotPanels(vPanels, rows, width, x.keys);
    packBf16Rows(rows, width, padded, x.k, b, kvHead, x.dim, 0, x.keys);
    packDotPanels(kPanels, rows, width, x.keys);
    zipRows(kZipped, rows, width, x.keys);
  }

  void packQueries(const AttentionArgs& x, int64_t b, int64_t head) {
    uint16_t *qRows = reinterpret_cast<uint16_t*>(q), *dyRows = reinterpret_cast<uint16_t*>(dy);
    uint16_t* yRows = reinterpret_cast<uint16_t*>(dq);  // y passes through the place of dq
    const int64_t padded = roundUp(x.queries, kDotRows);
    packBf16Rows(qRows, width, padded, x.q, b, head, x.dim, 0, x.queries);
    zipRows(qZipped, qRows, width, padded);
    packBf16Rows(dyRows, width, padded, x.dy, b, head, x.dim, 0, x.queries);
    zipRows(dyZipped, dyRows, width, padded);
    packBf16Rows(yRows, width, padded, x.y, b, head, x.dim, 0, x.queries);
    const float* saved = x.lse + (b * x.heads + head) * x.queries;
    for (int64_t i = 0; i < padded; i++) {
      vf sum{};
      for (int64_t d = 0; d < width; d += 32)
        sum = dot(sum, loadRegister<vf>(yRows + i * width + d), loadRegister<vf>(dyRows + i * width + d));
      delta[i] = reduceAdd(sum);
      lse[i] = i < x.queries ? saved[i] * kLog2E : 0.0f;
    }
  }

  /// One block of queries (from i0) against one of keys (from j0): adds to dq (if wantQueries) and to dk and dv (if
  /// wantKeys).
  void block(const AttentionArgs& x, int64_t i0, int64_t j0, bool wantQueries, bool wantKeys,
             RowsAhead& ahead) {
    const int64_t rows = least(kBlock, x.queries - i0), cols = least(kBlock, x.keys - j0), half = width / 2;
    const int64_t columns = roundUp(x.dim, kLanes), depth = (x.dim + 1) / 2;
    const int64_t diagonal = i0 - j0;  // row r sees columns 0 .. diagonal + r
    for (int64_t r0 = 0; r0 < rows; r0 += kDotRows) {
      const int64_t seen = least(diagonal + r0 + kDotRows, cols);
      if (seen <= 0) continue;
      ahead.fetch();
      const int64_t padded = roundUp(seen, kLanes);
      dotRows<false, Into::store>(q + (i0 + r0) * half, half, kPanels + j0 * half, kBlock, depth, s, kBlock, padded);
      dotRows<false, Into::store>(dy + (i0 + r0) * half, half, vPanels + j0 * half, kBlock, depth, dp, kBlock, padded);
      const bool whole = diagonal + r0 + 1 >= kBlock && cols == kBlock && r0 + kDotRows <= rows;
      for (int64_t r = 0; r < kDotRows; r += 2)
        if (whole) probabilities<true>(x, i0, r0, r, kBlock, 0, 0);
        else
          probabilities<false>(x, i0, r0, r, padded, r0 + r < rows ? diagonal + r0 + r + 1 : 0,
                               r0 + r + 1 < rows ? diagonal + r0 + r + 2 : 0);
      if (wantQueries)
        dotRows<false, Into::add>(ds, kBlock / 2, kZipped + j0 * half, width, (seen + 1) / 2, dq + (i0 + r0) * width, width,
                                  columns);
    }
    if (!wantKeys) return;
    for (int64_t c0 = 0; c0 < cols; c0 += kDotRows) {
      // The first row group that reached column c0; the group's masked places hold zeros.
      const int64_t from = most(0, c0 - diagonal) / kDotRows * kDotRows, pairs = (rows - from + 1) / 2;
      if (pairs <= 0) break;
      const int64_t p = from / 2 * kBlock + c0, i = (i0 + from) * half, j = (j0 + c0) * width;
      dotRows<true, Into::add>(pZipped + p, kBlock, dyZipped + i, width, pairs, dv + j, width, columns);
      dotRows<true, Into::add>(dsZipped + p, kBlock, qZipped + i, width, pairs, dk + j, width, columns);
    }
  }

  /// Rows r and r + 1 of the group at r0, which see the first `seen0` and `seen1` columns (or all, if `whole`): scores and
  /// dO V^T to P and dS, zero where not seen.
  template <bool whole>
  FP8_INLINE void probabilities(const AttentionArgs& x, int64_t i0, int64_t r0, int64_t r, int64_t padded, int64_t seen0,
                                int64_t seen1) {
    const vf factor = splat(x.scale * kLog2E);
    const vf shift0 = splat(-lse[i0 + r0 + r]), shift1 = splat(-lse[i0 + r0 + r + 1]);
    const vf mean0 = splat(delta[i0 + r0 + r]), mean1 = splat(delta[i0 + r0 + r + 1]);
    const float *s0 = s + r * kBlock, *s1 = s0 + kBlock, *dp0 = dp + r * kBlock, *dp1 = dp0 + kBlock;
    uint32_t* dsRow = ds + r * kBlock / 2;
    const int64_t at = (r0 + r) / 2 * kBlock;
    for (int64_t j = 0; j < padded; j += 32) {
      const uint32_t mask0 = whole ? ~0u : lanesBefore(seen0 - j), mask1 = whole ? ~0u : lanesBefore(seen1 - j);
      const auto p = [&](const float* row, vf shift, uint32_t mask) FP8_LAMBDA {
        return exp2OrZero(reg::mulAdd(loadRegister<vf>(row), factor, shift), __mmask16(mask));
      };
      const auto d = [&](vf p, const float* row, vf mean, uint32_t mask) FP8_LAMBDA {
        return (vf)_mm512_maskz_mul_ps(__mmask16(mask), p, loadRegister<vf>(row) - mean);
      };
      const vf a0 = p(s0 + j, shift0, mask0), b0 = p(s0 + j + kLanes, shift0, mask0 >> 16);
      const vf a1 = p(s1 + j, shift1, mask1), b1 = p(s1 + j + kLanes, shift1, mask1 >> 16);
      zip(pZipped + at + j, toBf16(a0, b0), toBf16(a1, b1));
      const __m512i ds0 = toBf16(d(a0, dp0 + j, mean0, mask0), d(b0, dp0 + j + kLanes, mean0, mask0 >> 16));
      const __m512i ds1 = toBf16(d(a1, dp1 + j, mean1, mask1), d(b1, dp1 + j + kLanes, mean1, mask1 >> 16));
      zip(dsZipped + at + j, ds0, ds1);
      _mm512_storeu_si512(dsRow + j / 2, ds0);
      _mm512_storeu_si512(dsRow + (kBlock + j) / 2, ds1);
    }
  }

  void writeQueries(const AttentionArgs& x, int64_t b, int64_t head, int64_t i0, int64_t count) {
    for (int64_t i = i0; i < i0 + count; i++) writeDotRow(x.dq, i, b, head, x.dim, dq + i * width, x.scale);
  }

  void writeKeys(const AttentionArgs& x, int64_t b, int64_t kvHead, int64_t j0, int64_t count) {
    for (int64_t j = j0; j < j0 + count; j++) {
      writeDotRow(x.dk, j, b, kvHead, x.dim, dk + j * width, x.scale);
      writeDotRow(x.dv, j, b, kvHead, x.dim, dv + j * width, 1.0f);
    }
  }
};
