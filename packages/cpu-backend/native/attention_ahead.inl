// Rows to ask for while something else is computed. A head's rows lie far apart, a line or two each, so no hardware
// prefetcher follows; waited for when needed, they took a fifth of the time at 256 keys. Asked for in small portions during
// the products, they are in the L2 cache when the next head is packed. Results are asked for shortly before they are written:
// rows a power of two apart share few of the cache's sets.

template <bool write>
FP8_INLINE const char* askRows(const char* row, int64_t step, int64_t count, int64_t bytes) {
  for (; count > 0; count--, row += step)
    for (int64_t at = 0; at < bytes; at += 64) {
#if defined(__x86_64__)
      if (write) asm volatile("prefetchw %0" : : "m"(row[at]));
      else __builtin_prefetch(row + at, 0, 2);
#else
      __builtin_prefetch(row + at, write, 2);
#endif
    }
  return row;
}

/// `count` rows of a head from t0, to be written.
FP8_INLINE void askToWrite(const HeadView& x, int64_t b, int64_t head, int64_t dim, int64_t t0, int64_t count) {
  const int64_t size = bytesOf(x.dtype);
  askRows<true>(static_cast<const char*>(rowOf(x, t0, b, head, dim)), x.step * size, count, dim * size);
}

/// What the next head reads.
class RowsAhead {
 public:
  void start(int64_t steps_) { parts = 0, rows = 0, steps = most(1, steps_); }

  /// The queries of head `all` (counted over the batch) and, if it begins a (batch, kv head) pair, its keys and values.
  void addQueries(const AttentionArgs& x, int64_t all, bool newPair) {
    const int64_t b = all / x.heads, head = all % x.heads;
    add(x.q, b, head, x.dim, x.queries);
    if (!newPair) return;
    add(x.v, b, head / x.group(), x.dim, x.keys);
    add(x.k, b, head / x.group(), x.dim, x.keys);
  }

  void addGradient(const AttentionArgs& x, int64_t all) {
    add(x.y, all / x.heads, all % x.heads, x.dim, x.queries);
    add(x.dy, all / x.heads, all % x.heads, x.dim, x.queries);
  }

  /// The next portion, one of `steps`.
  void fetch() {
    for (int64_t n = (rows + steps - 1) / steps; n > 0 && parts > 0;) {
      Part& p = list[parts - 1];
      const int64_t some = least(n, p.count);
      p.row = askRows<false>(p.row, p.step, some, p.bytes);
      n -= some;
      p.count -= some;
      if (p.count == 0) parts--;
    }
  }

 private:
  struct Part {
    const char* row;
    int64_t step, count, bytes;
  };
  Part list[5];
  int parts = 0;
  int64_t rows = 0, steps = 1;

  void add(const HeadView& x, int64_t b, int64_t head, int64_t dim, int64_t count) {
    const int64_t size = bytesOf(x.dtype);
    if (count > 0) list[parts++] = {static_cast<const char*>(rowOf(x, 0, b, head, dim)), x.step * size, count, dim * size};
    rows += count;
  }
};
