// Backward of the dot variant: attention_backward.inl with Q K^T and dO V^T from exact products of bf16, and P and dS rounded
// to bf16 for the other three. These differ in what they sum over: dQ = dS K over keys reads dS as it lies, pairs along a
// row; dV = P^T dO and dK = dS^T Q sum over queries and read pairs of rows, zipped.

/// All operands of one (batch, kv head) and one of its query heads, packed.
struct DotPair {
  static constexpr int64_t kRowGroup = kDotRows;
  int64_t b = 0, kvHead = 0, head = 0;
  int64_t width, queries, keys;               // the latter two padded to whole blocks
  uint32_t *kZipped, *kPanels, *vPanels;      // per pair
  uint32_t *q, *qZipped, *dy, *dyZipped;      // per head
  float *lse, *delta;                         // per head; lse times log2 e
  float *dq, *dk, *dv;
  float *s, *dp;                              // [kDotRows][kBlock] scores, dO V^T
  uint16_t* copy;                             // [kLanes][width]
  uint32_t *ds, *pZipped, *dsZipped;          // [kBlock][kBlock / 2]; [kBlock / 2][kBlock]

  static int64_t floats(const AttentionArgs& x) {
    const int64_t queries = blocksOf(x.queries) * kBlock, keys = blocksOf(x.keys) * kBlock;
    return (7 * keys + 6 * queries) * dotWidth(x) / 2 + 2 * queries + kDotRows * kBlock * 2 + kBlock * kBlock * 3 / 2 +
           kLanes * dotWidth(x) / 2;
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
    ds = takePairs(kBlock * kBlock / 2);
    pZipped = takePairs(kBlock * kBlock / 2);
    dsZipped = takePairs(kBlock * kBlock / 2);
    copy = reinterpret_cast<uint16_t*>(take(kLanes * width / 2));
    lse = take(queries);
    delta = take(queries);
  }

  void packKeys(const AttentionArgs& x, int64_t batch, int64_t kvHead_) {
    b = batch, kvHead = kvHead_;
    forSixteenRows(x.v, b, kvHead, x.dim, width, x.keys, copy, [&](int64_t t, const uint16_t* rows, int64_t stride)
                       FP8_LAMBDA { packPanel(vPanels, t, rows, stride, width); });
    forSixteenRows(x.k, b, kvHead, x.dim, width, x.keys, copy, [&](int64_t t, const uint16_t* rows, int64_t stride)
                       FP8_LAMBDA {
                         packPanel(kPanels, t, rows, stride, width);
                         zipRows(kZipped, t, rows, stride, width);
                       });
  }

  void packQueries(const AttentionArgs& x, int64_t batch, int64_t head_) {
    b = batch, head = head_;
    const auto copyAndZip = [&](const HeadView& from, uint32_t* out, uint32_t* zipped) FP8_LAMBDA {
      forSixteenRows(from, b, head, x.dim, width, x.queries, copy, [&](int64_t t, const uint16_t* rows, int64_t stride)
                         FP8_LAMBDA {
                           copyRows(out, t, rows, stride, width);
                           zipRows(zipped, t, rows, stride, width);
                         });
    };
    copyAndZip(x.q, q, qZipped);
    copyAndZip(x.dy, dy, dyZipped);
    forSixteenRows(x.y, b, head, x.dim, width, x.queries, copy, [&](int64_t t, const uint16_t* rows, int64_t stride)
                       FP8_LAMBDA {
                         for (int64_t r0 = 0; r0 < kLanes; r0 += kDotRows) sumProducts(t + r0, rows + r0 * stride, stride);
                       });
    const float* saved = x.lse + (b * x.heads + head) * x.queries;
    for (int64_t i = 0; i < x.queries; i += kLanes) {
      const __mmask16 there = __mmask16(lanesBefore(x.queries - i));
      store(lse + i, F32(_mm512_maskz_loadu_ps(there, saved + i) * splat(kLog2E)));
    }
  }

  /// delta of kDotRows rows from t: dy . y.
  FP8_INLINE void sumProducts(int64_t t, const uint16_t* y, int64_t stride) {
    vf sum[kDotRows];
    for (int64_t r = 0; r < kDotRows; r++) {
      sum[r] = vf{};
      for (int64_t d = 0; d < width; d += 32)
        sum[r] = dot(sum[r], loadRegister<vf>(y + r * stride + d), loadRegister<vf>(dy + ((t + r) * width + d) / 2));
    }
    _mm512_mask_storeu_ps(delta + t, 0xff, foldRows(sum, reg::add));
  }

  /// One block of queries (from i0) against one of keys (from j0): adds to dq (if wantQueries) and to dk and dv (if
  /// wantKeys), which it begins with the first block of keys, and with the first of queries if firstHead.
  void block(const AttentionArgs& x, int64_t i0, int64_t j0, bool wantQueries, bool wantKeys,
             bool firstHead, RowsAhead& ahead) {
    const int64_t rows = least(kBlock, x.queries - i0), cols = least(kBlock, x.keys - j0), half = width / 2;
    const int64_t columns = roundUp(x.dim, kLanes), depth = (x.dim + 1) / 2;
    const int64_t diagonal = i0 - j0;  // row r sees columns 0 .. diagonal + r
    for (int64_t r0 = 0; r0 < rows; r0 += kDotRows) {
      const int64_t seen = least(diagonal + r0 + kDotRows, cols);
      if (seen <= 0) continue;
      ahead.fetch();
      if (i0 == j0) askToWrite(x.dq, b, head, x.dim, i0 + r0, least(kDotRows, rows - r0));  // complete after this block
      const int64_t padded = roundUp(seen, kLanes);
      dotRows<false, Into::store>(q + (i0 + r0) * half, half, kPanels + j0 * half, kBlock, depth, s, kBlock, padded);
      dotRows<false, Into::store>(dy + (i0 + r0) * half, half, vPanels + j0 * half, kBlock, depth, dp, kBlock, padded);
      // Whole vectors that all rows see need no masks.
      const int64_t whole = r0 + kDotRows <= rows ? least(diagonal + r0 + 1, cols) / 32 * 32 : 0;
      for (int64_t r = 0; r < kDotRows; r += 2) {
        const auto last = [&](int64_t row) { return row < rows ? diagonal + row + 1 : 0; };
        probabilities<true>(x, i0, r0 + r, s + r * kBlock, dp + r * kBlock, 0, whole, 0, 0);
        probabilities<false>(x, i0, r0 + r, s + r * kBlock, dp + r * kBlock, whole, padded, last(r0 + r), last(r0 + r + 1));
      }
    }
    for (int64_t r0 = 0; wantQueries && r0 < rows; r0 += kDotRows) {
      const int64_t seen = least(diagonal + r0 + kDotRows, cols);
      if (seen <= 0) continue;
      const auto product = j0 == 0 ? dotRows<false, Into::store> : dotRows<false, Into::add>;
      product(ds + r0 * kBlock / 2, kBlock / 2, kZipped + j0 * half, width, (seen + 1) / 2, dq + (i0 + r0) * width, width,
              columns, nullptr);
    }
    if (!wantKeys) return;
    const auto product = firstHead && i0 == j0 ? dotRows<true, Into::store> : dotRows<true, Into::add>;
    for (int64_t c0 = 0; c0 < cols; c0 += kDotRows) {
      if (i0 + kBlock >= x.queries) {  // complete after this block
        askToWrite(x.dk, b, kvHead, x.dim, j0 + c0, least(kDotRows, cols - c0));
        askToWrite(x.dv, b, kvHead, x.dim, j0 + c0, least(kDotRows, cols - c0));
      }
      // The first row group that reached column c0; the group's masked places hold zeros.
      const int64_t from = most(0, c0 - diagonal) / kDotRows * kDotRows, pairs = (rows - from + 1) / 2;
      if (pairs <= 0) break;
      const int64_t p = from / 2 * kBlock + c0, i = (i0 + from) * half, j = (j0 + c0) * width;
      product(pZipped + p, kBlock, dyZipped + i, width, pairs, dv + j, width, columns, nullptr);
      product(dsZipped + p, kBlock, qZipped + i, width, pairs, dk + j, width, columns, nullptr);
    }
  }

  /// Rows r and r + 1, columns `begin` to `end`, of which they see the first `seen0` and `seen1` (or all, if `whole`): scores
  /// and dO V^T to P and dS, zero where not seen.
  template <bool whole>
  FP8_INLINE void probabilities(const AttentionArgs& x, int64_t i0, int64_t r, const float* s0, const float* dp0,
                                int64_t begin, int64_t end, int64_t seen0, int64_t seen1) {
    const vf factor = splat(x.scale * kLog2E);
    const vf shift0 = splat(-lse[i0 + r]), shift1 = splat(-lse[i0 + r + 1]);
    const vf mean0 = splat(delta[i0 + r]), mean1 = splat(delta[i0 + r + 1]);
    const float *s1 = s0 + kBlock, *dp1 = dp0 + kBlock;
    uint32_t* dsRow = ds + r * kBlock / 2;
    const int64_t at = r / 2 * kBlock;
    for (int64_t j = begin; j < end; j += 32) {
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

  void writeQueries(const AttentionArgs& x, int64_t i0, int64_t count) {
    for (int64_t i = i0; i < i0 + count; i++) writeDotRow(x.dq, i, b, head, x.dim, dq + i * width, x.scale);
  }

  void writeKeys(const AttentionArgs& x, int64_t j0, int64_t count) {
    for (int64_t j = j0; j < j0 + count; j++) {
      writeDotRow(x.dk, j, b, kvHead, x.dim, dk + j * width, x.scale);
      writeDotRow(x.dv, j, b, kvHead, x.dim, dv + j * width, 1.0f);
    }
  }
};
