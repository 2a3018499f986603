// Between the activations' layout (a head's rows lie batch * (heads + 2 kv_heads) * head_dim apart, f32 or bf16) and
// the contiguous, padded f32 blocks that the products read.

inline int64_t roundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/// Keys and queries a block. 96 is a multiple of every kRows (4, 6, 12; 8 in the dot variant) and of 16.
constexpr int64_t kBlock = 96;

inline int64_t blocksOf(int64_t n) { return (n + kBlock - 1) / kBlock; }
inline int64_t widthOf(const AttentionArgs& x) { return roundUp(x.dim, kLanes); }

inline void* rowOf(const HeadView& x, int64_t t, int64_t b, int64_t head, int64_t dim) {
  return static_cast<char*>(x.data) + (t * x.step + b * x.batchStep + head * dim) * bytesOf(x.dtype);
}

template <class T> FP8_INLINE void readRowOf(float* out, const void* row, int64_t dim, float factor) {
  const T* p = static_cast<const T*>(row);
  forVectors(0, dim, [&](int64_t d, int64_t n) FP8_LAMBDA { store(out + d, loadAt(p, d, n) * F32(factor)); });
}

template <class T> FP8_INLINE void writeRowOf(void* row, const float* x, int64_t dim, float factor) {
  T* p = static_cast<T*>(row);
  forVectors(0, dim, [&](int64_t d, int64_t n) FP8_LAMBDA { storeAt(p, d, load(x + d) * F32(factor), n); });
}

/// One row of a head times factor, padded with zeros to whole vectors; and back.
inline void readRow(float* out, const HeadView& x, int64_t t, int64_t b, int64_t head, int64_t dim, float factor) {
  if (x.dtype == DType::bf16) readRowOf<BF16>(out, rowOf(x, t, b, head, dim), dim, factor);
  else readRowOf<float>(out, rowOf(x, t, b, head, dim), dim, factor);
}

inline void writeRow(const HeadView& x, int64_t t, int64_t b, int64_t head, int64_t dim, const float* row,
                     float factor) {
  if (x.dtype == DType::bf16) writeRowOf<BF16>(rowOf(x, t, b, head, dim), row, dim, factor);
  else writeRowOf<float>(rowOf(x, t, b, head, dim), row, dim, factor);
}

FP8_INLINE void prefetchRow(const void* row, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(row) + at);
}

inline void clear(float* x, int64_t n) { memset(x, 0, size_t(n) * sizeof(float)); }

/// out[i] = row t0 + i times factor, padded with zeros to `width` columns (whole vectors) and, below, to `rows` rows.
inline void packRows(float* out, int64_t width, int64_t rows, const HeadView& x, int64_t b, int64_t head, int64_t dim,
                     int64_t t0, int64_t count, float factor = 1.0f) {
  constexpr int64_t ahead = 12;  // rows lie pages apart: no hardware prefetcher follows
  for (int64_t i = 0; i < count; i++) {
    if (i + ahead < count) prefetchRow(rowOf(x, t0 + i + ahead, b, head, dim), dim * bytesOf(x.dtype));
    readRow(out + i * width, x, t0 + i, b, head, dim, factor);
  }
  if (rows > count) clear(out + count * width, (rows - count) * width);
}

#if FP8_VEC_AVX512
constexpr vi kInterleaveLow = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
#elif FP8_VEC_AVX2
constexpr vi kInterleaveLow = {0, 8, 1, 9, 2, 10, 3, 11};
#else
constexpr vi kInterleaveLow = {0, 4, 1, 5};
#endif
constexpr vi kInterleaveHigh = kInterleaveLow + kWidth / 2;

/// Transposes kWidth x kWidth floats: log2(kWidth) rounds of interleaving row i with row i + kWidth / 2.
FP8_INLINE void transposeTile(const float* in, int64_t ldIn, float* out, int64_t ldOut) {
  vf a[kWidth], b[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) a[i] = loadRegister<vf>(in + i * ldIn);
#pragma GCC unroll 4
  for (int width = 1; width < kWidth; width *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; i++) {
      b[2 * i] = __builtin_shuffle(a[i], a[i + kWidth / 2], kInterleaveLow);
      b[2 * i + 1] = __builtin_shuffle(a[i], a[i + kWidth / 2], kInterleaveHigh);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; i++) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) memcpy(out + i * ldOut, &a[i], sizeof(vf));
}

/// Packed rows [count padded to 16][width] to panels [key block][width][kBlock], each a transposed block.
inline void packPanels(float* panels, const float* rows, int64_t width, int64_t count) {
  for (int64_t t = 0; t < count; t += kWidth) {
    float* panel = panels + t / kBlock * width * kBlock + t % kBlock;
    for (int64_t d = 0; d < width; d += kWidth) transposeTile(rows + t * width + d, width, panel + d * kBlock, kBlock);
  }
}
