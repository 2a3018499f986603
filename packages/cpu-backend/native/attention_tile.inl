// Register-blocked products of small f32 matrices that lie in L1/L2: the only place where attention multiplies.
//
//   c[r][j] = a(r, k) b[k][j]      a(r, k) = a[r * lda + k], or a[k * lda + r] if transA
//
// kRows x kCols registers of c stay in registers over the whole k loop; each step loads kCols registers of b and
// broadcasts kRows scalars of a, so that loads stay below the FMA units' pace. Every c row of a group of kRows is
// computed: buffers are padded to whole groups. b and c are padded to 16 columns.

#if FP8_VEC_AVX512
constexpr int kRows = 12, kCols = 2;
#elif FP8_VEC_AVX2
constexpr int kRows = 6, kCols = 2;
#else
constexpr int kRows = 4, kCols = 2;
#endif

enum class Into { store, add, rescale };  // c = ab, c += ab, c = c * factor[r] + ab

template <int cols, bool transA, Into into>
FP8_INLINE void tile(const float* __restrict a, int64_t lda, const float* __restrict b, int64_t ldb, int64_t depth,
                     float* __restrict c, int64_t ldc, const float* factor) {
  vf acc[kRows][cols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int j = 0; j < cols; j++) {
      if (into == Into::store) acc[r][j] = vf{};
      else if (into == Into::add) acc[r][j] = loadRegister<vf>(c + r * ldc + j * kWidth);
      else acc[r][j] = loadRegister<vf>(c + r * ldc + j * kWidth) * splat(factor[r]);
    }
  for (int64_t k = 0; k < depth; k++) {
    vf bk[cols];
#pragma GCC unroll 8
    for (int j = 0; j < cols; j++) bk[j] = loadRegister<vf>(b + k * ldb + j * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const vf ark = splat(transA ? a[k * lda + r] : a[r * lda + k]);
#pragma GCC unroll 8
      for (int j = 0; j < cols; j++) acc[r][j] = reg::mulAdd(ark, bk[j], acc[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 8
    for (int j = 0; j < cols; j++) memcpy(c + r * ldc + j * kWidth, &acc[r][j], sizeof(vf));
}

/// kRows rows of c, `columns` wide (a multiple of 16).
template <bool transA, Into into>
static void rowGroup(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t depth, float* c, int64_t ldc,
                     int64_t columns, const float* factor = nullptr) {
  int64_t j = 0;
  for (; j + kCols * kWidth <= columns; j += kCols * kWidth)
    tile<kCols, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
  if (kCols > 2 && j + 2 * kWidth <= columns) {
    tile<2, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
    j += 2 * kWidth;
  }
  for (; j < columns; j += kWidth) tile<1, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
}

/// The lanes of x folded by `f` in log2(16) steps: 8 apart, 4, 2, 1.
template <class F> FP8_INLINE float foldLanes(F32 x, F f) {
#if FP8_VEC_AVX512
  vf y = f(x.a, (vf)_mm512_shuffle_f32x4((__m512)x.a, (__m512)x.a, 0x4e));
#elif FP8_VEC_AVX2
  vf y = f(x.a, x.b);
#else
  vf y = f(f(x.a, x.c), f(x.b, x.d));
#endif
#if FP8_VEC_AVX512 || FP8_VEC_AVX2
  constexpr vi swap4 = kLaneIndex ^ 4;
  y = f(y, __builtin_shuffle(y, swap4));
#endif
  constexpr vi swap2 = kLaneIndex ^ 2, swap1 = kLaneIndex ^ 1;
  y = f(y, __builtin_shuffle(y, swap2));
  y = f(y, __builtin_shuffle(y, swap1));
  return y[0];
}

FP8_INLINE float reduceMax(F32 x) {
  return foldLanes(x, [](vf a, vf b) FP8_LAMBDA { return reg::max(a, b); });
}
FP8_INLINE float reduceAdd(F32 x) {
  return foldLanes(x, [](vf a, vf b) FP8_LAMBDA { return a + b; });
}

/// e^x, but 0 below -87, where it would leave the normal range: masked scores are -inf, and results below the normal
/// range cost a microcode assist of some 100 cycles each, here and in every product they enter. NaN stays NaN.
FP8_INLINE F32 expOrZero(F32 x) {
  const F32 floor(-87.0f);
  return pick(floor > x, F32(0.0f), math::exp(atLeast(x, floor)));
}
