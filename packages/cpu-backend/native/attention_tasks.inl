// How forward and backward go over blocks and heads, whatever form the operands are packed in: Keys (PackedKeys, DotKeys)
// holds the keys and values of a (batch, kv head) and has forwardBlock(); Pair (BackwardPair, DotPair) holds those and a
// query head and has block().
//
// Backward, where queries and keys are the same positions: key blocks are the outer loop, query blocks from there on the
// inner one. dK and dV of a kv head gather the heads of its group in order, dQ its key blocks in order. The finer tasks keep
// both orders, so every way of splitting the work gives the same bits.

/// Query block of folded position f: 0, n - 1, 1, n - 2, … so that any run of tasks mixes short and long rows.
inline int64_t unfold(int64_t f, int64_t blocks) { return f % 2 == 0 ? f / 2 : blocks - 1 - f / 2; }

inline int64_t queryTasks(const AttentionArgs& x) { return x.batch * x.heads * blocksOf(x.queries); }
inline int64_t keyTasks(const AttentionArgs& x) { return x.batch * x.kvHeads * blocksOf(x.keys); }

template <class Keys> void forward(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Keys keys(x, scratch);
  float* rest = scratch + Keys::floats(x);
  RowsAhead ahead;
  const int64_t blocks = blocksOf(x.queries);
  const auto groupsOf = [](int64_t n, int64_t unit) { return (n + unit - 1) / unit; };
  int64_t ready = -1;
  for (int64_t task = begin; task < end;) {  // the tasks of a head
    const int64_t all = task / blocks, b = all / x.heads, head = all % x.heads, kvHead = head / x.group();
    const int64_t last = least(end, (all + 1) * blocks);
    const auto from = [&](int64_t t) { return unfold(t % blocks, blocks) * kBlock; };
    const auto count = [&](int64_t t) { return least(kBlock, x.queries - from(t)); };
    if (b * x.kvHeads + kvHead != ready) keys.pack(x, b, kvHead);
    ready = b * x.kvHeads + kvHead;
    int64_t steps = 0;
    for (int64_t t = task; t < last; t++)
      steps += groupsOf(count(t), Keys::kRowGroup) * groupsOf(x.offset + from(t) + count(t), Keys::kPass);
    ahead.start(steps);
    if (last < end) ahead.addQueries(x, all + 1, (all + 1) / x.group() != all / x.group());
    for (; task < last; task++) forwardBlock(x, keys, rest, b, head, from(task), count(task), ahead);
  }
}

template <class Pair> void backwardPairs(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Pair pair(x, scratch);
  RowsAhead ahead;
  for (int64_t task = begin; task < end; task++) {
    const int64_t b = task / x.kvHeads, kvHead = task % x.kvHeads;
    pair.packKeys(x, b, kvHead);
    for (int64_t head = kvHead * x.group(); head < (kvHead + 1) * x.group(); head++) {
      pair.packQueries(x, b, head);
      const bool first = head == kvHead * x.group(), last = head + 1 == (kvHead + 1) * x.group();
      int64_t steps = 0;
      for (int64_t j0 = 0; j0 < x.keys; j0 += kBlock) steps += (x.queries - j0) / Pair::kRowGroup;
      ahead.start(steps);
      if (!last || task + 1 < end) {
        ahead.addQueries(x, b * x.heads + head + 1, last);
        ahead.addGradient(x, b * x.heads + head + 1);
      }
      for (int64_t j0 = 0; j0 < x.keys; j0 += kBlock) {
        for (int64_t i0 = j0; i0 < x.queries; i0 += kBlock) {
          pair.block(x, i0, j0, true, true, first, ahead);
          if (i0 == j0) pair.writeQueries(x, i0, least(kBlock, x.queries - i0));  // their last keys
        }
        if (last) pair.writeKeys(x, j0, least(kBlock, x.keys - j0));
      }
    }
  }
}

template <class Pair> void backwardQueries(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Pair pair(x, scratch);
  RowsAhead none;
  const int64_t blocks = blocksOf(x.queries);
  int64_t readyPair = -1, readyHead = -1;
  for (int64_t task = begin; task < end; task++) {
    const int64_t all = task / blocks, b = all / x.heads, head = all % x.heads, kvHead = head / x.group();
    const int64_t i0 = unfold(task % blocks, blocks) * kBlock;
    if (b * x.kvHeads + kvHead != readyPair) pair.packKeys(x, b, kvHead);
    if (all != readyHead) pair.packQueries(x, b, head);
    readyPair = b * x.kvHeads + kvHead;
    readyHead = all;
    for (int64_t j0 = 0; j0 <= i0; j0 += kBlock) pair.block(x, i0, j0, true, false, false, none);
    pair.writeQueries(x, i0, least(kBlock, x.queries - i0));
  }
}

template <class Pair> void backwardKeys(const AttentionArgs& x, float* scratch, int64_t begin, int64_t end) {
  Pair pair(x, scratch);
  RowsAhead none;
  const int64_t blocks = blocksOf(x.keys);
  // Heads outside, key blocks inside: each head of a pair is packed once a run of tasks on that pair.
  for (int64_t task = begin; task < end;) {
    const int64_t all = task / blocks, b = all / x.kvHeads, kvHead = all % x.kvHeads;
    const int64_t last = least(end, (all + 1) * blocks);
    pair.packKeys(x, b, kvHead);
    for (int64_t head = kvHead * x.group(); head < (kvHead + 1) * x.group(); head++) {
      pair.packQueries(x, b, head);
      for (int64_t t = task; t < last; t++) {
        const int64_t j0 = unfold(t % blocks, blocks) * kBlock;
        for (int64_t i0 = j0; i0 < x.queries; i0 += kBlock)
          pair.block(x, i0, j0, false, true, head == kvHead * x.group(), none);
      }
    }
    for (; task < last; task++) {
      const int64_t j0 = unfold(task % blocks, blocks) * kBlock;
      pair.writeKeys(x, j0, least(kBlock, x.keys - j0));
    }
  }
}
