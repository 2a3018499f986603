// Backward without stored probabilities (Dao et al. 2022, algorithm 4): P = exp(S - lse) is recomputed block by block.
//
//   delta_i = dy_i . y_i     dV = P^T dY     dS = P (dY V^T - delta)     dQ = scale dS K     dK = dS^T (scale Q)
//
// One block of queries against one of keys; attention_tasks.inl has the loops over them.

/// All operands of one (batch, kv head) and one of its query heads, packed.
struct BackwardPair {
  static constexpr int64_t kRowGroup = kRows;
  int64_t b = 0, kvHead = 0, head = 0;
  int64_t width, queries, keys;  // the latter two padded to whole blocks
  float *k, *kPanels, *vPanels;  // per pair
  float *q, *dy, *lse, *delta;   // per head; q carries the softmax scale
  float *dq, *dk, *dv;
  float *p, *ds;  // [kBlock][kBlock]

  static int64_t floats(const AttentionArgs& x) {
    const int64_t queries = blocksOf(x.queries) * kBlock, keys = blocksOf(x.keys) * kBlock;
    return (5 * keys + 3 * queries) * widthOf(x) + 2 * queries + 2 * kBlock * kBlock;
  }

  BackwardPair(const AttentionArgs& x, float* scratch)
      : width(widthOf(x)), queries(blocksOf(x.queries) * kBlock), keys(blocksOf(x.keys) * kBlock) {
    auto take = [&](int64_t n) {
      float* start = scratch;
      scratch += n;
      return start;
    };
    k = take(keys * width);
    kPanels = take(keys * width);
    vPanels = take(keys * width);
    dk = take(keys * width);
    dv = take(keys * width);
    q = take(queries * width);
    dy = take(queries * width);
    dq = take(queries * width);
    p = take(kBlock * kBlock);
    ds = take(kBlock * kBlock);
    lse = take(queries);
    delta = take(queries);
  }

  void packKeys(const AttentionArgs& x, int64_t batch, int64_t kvHead_) {
    b = batch, kvHead = kvHead_;
    packRows(k, width, keys, x.v, b, kvHead, x.dim, 0, x.keys);  // V passes through the place of K
    packPanels(vPanels, k, width, x.keys);
    packRows(k, width, keys, x.k, b, kvHead, x.dim, 0, x.keys);
    packPanels(kPanels, k, width, x.keys);
  }

  void packQueries(const AttentionArgs& x, int64_t batch, int64_t head_) {
    b = batch, head = head_;
    packRows(dq, width, queries, x.y, b, head, x.dim, 0, x.queries);  // y passes through the place of dq
    packRows(dy, width, queries, x.dy, b, head, x.dim, 0, x.queries);
    packRows(q, width, queries, x.q, b, head, x.dim, 0, x.queries, x.scale);
    const float* saved = x.lse + (b * x.heads + head) * x.queries;
    for (int64_t i = 0; i < queries; i++) {
      F32 sum(0.0f);
      for (int64_t d = 0; d < width; d += kLanes) sum = mulAdd(load(dq + i * width + d), load(dy + i * width + d), sum);
      delta[i] = reduceAdd(sum);
      lse[i] = i < x.queries ? saved[i] : 0.0f;
    }
  }

  /// One block of queries (from i0) against one of keys (from j0): adds to dq (if wantQueries) and to dk and dv (if
  /// wantKeys), which it begins with the first block of keys, and with the first of queries if firstHead.
  void block(const AttentionArgs& x, int64_t i0, int64_t j0, bool wantQueries, bool wantKeys,
             bool firstHead, RowsAhead& ahead) {
    const int64_t rows = least(kBlock, x.queries - i0), cols = least(kBlock, x.keys - j0);
    const int64_t diagonal = x.offset + i0 - j0;  // row r sees columns 0 .. diagonal + r
    for (int64_t r0 = 0; r0 < rows; r0 += kRows) {
      const int64_t seen = least(diagonal + r0 + kRows, cols);
      if (seen <= 0) continue;
      ahead.fetch();
      if (i0 == j0) askToWrite(x.dq, b, head, x.dim, i0 + r0, least(kRows, rows - r0));  // complete after this block
      const int64_t padded = roundUp(seen, kLanes);
      rowGroup<false, Into::store>(q + (i0 + r0) * width, width, kPanels + j0 * width, kBlock, x.dim, p + r0 * kBlock,
                                   kBlock, padded);
      rowGroup<false, Into::store>(dy + (i0 + r0) * width, width, vPanels + j0 * width, kBlock, x.dim, ds + r0 * kBlock,
                                   kBlock, padded);
      for (int64_t r = r0; r < r0 + kRows; r++)
        probabilities(r, i0 + r, padded, r < rows ? least(diagonal + r + 1, cols) : 0);
      const auto product = j0 == 0 ? rowGroup<false, Into::store> : rowGroup<false, Into::add>;
      if (wantQueries)
        product(ds + r0 * kBlock, kBlock, k + j0 * width, width, seen, dq + (i0 + r0) * width, width, width, nullptr);
    }
    if (!wantKeys) return;
    const auto product = firstHead && i0 == j0 ? rowGroup<true, Into::store> : rowGroup<true, Into::add>;
    for (int64_t c0 = 0; c0 < cols; c0 += kRows) {
      if (i0 + kBlock >= x.queries) {  // complete after this block
        askToWrite(x.dk, b, kvHead, x.dim, j0 + c0, least(kRows, cols - c0));
        askToWrite(x.dv, b, kvHead, x.dim, j0 + c0, least(kRows, cols - c0));
      }
      // The first row group that reached column c0; the group's masked places hold zeros.
      const int64_t from = most(0, c0 - diagonal) / kRows * kRows, depth = rows - from;
      if (depth <= 0) break;
      const float *pc = p + from * kBlock + c0, *dsc = ds + from * kBlock + c0;
      const int64_t i = (i0 + from) * width, j = (j0 + c0) * width;
      product(pc, kBlock, dy + i, width, depth, dv + j, width, width, nullptr);
      product(dsc, kBlock, q + i, width, depth, dk + j, width, width, nullptr);
    }
  }

  /// Row r of the block: scores to P and dY V^T to dS, zero from column `seen` on.
  void probabilities(int64_t r, int64_t i, int64_t padded, int64_t seen) {
    float *pr = p + r * kBlock, *dsr = ds + r * kBlock;
    const F32 shift(lse[i]), mean(delta[i]);
    for (int64_t j = 0; j < padded; j += kLanes) {
      const F32 e = expOrZero(load(pr + j) - shift);
      store(pr + j, e);
      store(dsr + j, e * (load(dsr + j) - mean));
    }
    for (int64_t j = most(0, seen); j < padded; j++) pr[j] = dsr[j] = 0.0f;
  }

  void writeQueries(const AttentionArgs& x, int64_t i0, int64_t count) {
    for (int64_t i = i0; i < i0 + count; i++) writeRow(x.dq, i, b, head, x.dim, dq + i * width, x.scale);
  }

  void writeKeys(const AttentionArgs& x, int64_t j0, int64_t count) {
    for (int64_t j = j0; j < j0 + count; j++) {
      writeRow(x.dk, j, b, kvHead, x.dim, dk + j * width, 1.0f);
      writeRow(x.dv, j, b, kvHead, x.dim, dv + j * width, 1.0f);
    }
  }
};
