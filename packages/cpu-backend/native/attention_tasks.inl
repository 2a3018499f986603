// How forward and backward go over blocks and heads, whatever form the operands are packed in: Keys (PackedKeys, DotKeys)
// holds the keys and values of a (batch, kv head) and has forwardBlock(); Pair (BackwardPair, DotPair) holds those and a
// query head and has block().
//
// Backward: key blocks are the outer loop, query blocks the inner one. dK and dV of a kv head gather the heads of its group
// in order, dQ its key blocks in order. The finer tasks keep both orders, so every way of splitting the work gives the
// same bits.

/// Query block of folded position f: 0, n - 1, 1, n - 2, … so that any run of tasks mixes short and long rows.
inline int64_t unfold(int64_t f, int64_t blocks) { return f % 2 == 0 ? f / 2 : blocks - 1 - f / 2; }

inline int64_t queryTasks(const AttentionArgs& x) { return x.batch * x.heads * blocksOf(x.queries); }
inline int64_t keyTasks(const AttentionArgs& x) { return x.batch * x.kvHeads * blocksOf(x.keys); }

/// The first query block that sees key j0.
inline int64_t firstBlock(const AttentionArgs& x, int64_t j0) { return most(0, j0 - x.offset) / kBlock * kBlock; }

template <class Keys> void forward(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Keys keys(x, scratch);
  float* rest = scratch + Keys::floats(x);
  const int64_t blocks = blocksOf(x.queries);
  int64_t ready = -1;
  for (int64_t task = begin; task < end; task++) {
    const int64_t b = task / blocks / x.heads, head = task / blocks % x.heads;
    const int64_t pair = b * x.kvHeads + head / x.group(), i0 = unfold(task % blocks, blocks) * kBlock;
    if (pair != ready) keys.pack(x, b, head / x.group());
    ready = pair;
    forwardBlock(x, keys, rest, b, head, i0, least(kBlock, x.queries - i0));
  }
}

template <class Pair> void backwardPairs(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Pair pair(x, scratch);
  for (int64_t task = begin; task < end; task++) {
    const int64_t b = task / x.kvHeads, kvHead = task % x.kvHeads;
    pair.packKeys(x, b, kvHead);
    clear(pair.dk, 2 * pair.keys * pair.width);  // dk and dv
    for (int64_t head = kvHead * x.group(); head < (kvHead + 1) * x.group(); head++) {
      pair.packQueries(x, b, head);
      clear(pair.dq, pair.queries * pair.width);
      for (int64_t j0 = 0; j0 < x.keys; j0 += kBlock)
        for (int64_t i0 = firstBlock(x, j0); i0 < x.queries; i0 += kBlock) pair.block(x, i0, j0, true, true);
      pair.writeQueries(x, b, head, 0, x.queries);
    }
    pair.writeKeys(x, b, kvHead, 0, x.keys);
  }
}

template <class Pair> void backwardQueries(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Pair pair(x, scratch);
  const int64_t blocks = blocksOf(x.queries);
  int64_t readyPair = -1, readyHead = -1;
  for (int64_t task = begin; task < end; task++) {
    const int64_t all = task / blocks, b = all / x.heads, head = all % x.heads, kvHead = head / x.group();
    const int64_t i0 = unfold(task % blocks, blocks) * kBlock;
    if (b * x.kvHeads + kvHead != readyPair) pair.packKeys(x, b, kvHead);
    if (all != readyHead) {
      pair.packQueries(x, b, head);
      clear(pair.dq, pair.queries * pair.width);
    }
    readyPair = b * x.kvHeads + kvHead;
    readyHead = all;
    for (int64_t j0 = 0; j0 < x.keys && firstBlock(x, j0) <= i0; j0 += kBlock) pair.block(x, i0, j0, true, false);
    pair.writeQueries(x, b, head, i0, least(kBlock, x.queries - i0));
  }
}

template <class Pair> void backwardKeys(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Pair pair(x, scratch);
  const int64_t blocks = blocksOf(x.keys);
  // Heads outside, key blocks inside: each head of a pair is packed once a run of tasks on that pair.
  for (int64_t task = begin; task < end;) {
    const int64_t all = task / blocks, b = all / x.kvHeads, kvHead = all % x.kvHeads;
    const int64_t last = least(end, (all + 1) * blocks);
    pair.packKeys(x, b, kvHead);
    clear(pair.dk, 2 * pair.keys * pair.width);
    for (int64_t head = kvHead * x.group(); head < (kvHead + 1) * x.group(); head++) {
      pair.packQueries(x, b, head);
      for (int64_t t = task; t < last; t++) {
        const int64_t j0 = unfold(t % blocks, blocks) * kBlock;
        for (int64_t i0 = firstBlock(x, j0); i0 < x.queries; i0 += kBlock) pair.block(x, i0, j0, false, true);
      }
    }
    for (; task < last; task++) {
      const int64_t j0 = unfold(task % blocks, blocks) * kBlock;
      pair.writeKeys(x, b, kvHead, j0, least(kBlock, x.keys - j0));
    }
  }
}
