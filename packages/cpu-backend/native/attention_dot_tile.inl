// Products by vdpbf16ps: c[r][j] = sum over k of a(r, k) . b[k][j], where a and b hold pairs of bf16, neighbours along the
// reduced dimension, as dwords.  a(r, k) = a[r * lda + k], or a[k * lda + r] if transA.
//
// A tile of c stays in registers over the whole k loop. Depths are short (32 for dim 64, 48 for a block of keys), so what
// counts beside the loop is how often c is loaded and stored. Measured, of the dot product's peak, with depth 32 or 48:
// 8 x 3 registers 0.94, 4 x 4 0.94, 8 x 2 0.92, 8 x 1 0.95, 12 x 2 0.89.

constexpr int kDotRows = 8;

/// c must stay in its register: see Avx512::mac in gemm_simd_avx512.h.
FP8_INLINE vf dot(vf c, vf a, vf b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  return c;
}

template <int rows, int cols, bool transA, Into into>
FP8_INLINE void dotTile(const uint32_t* __restrict a, int64_t lda, const uint32_t* __restrict b, int64_t ldb,
                        int64_t depth, float* __restrict c, int64_t ldc, const float* factor) {
  vf acc[rows][cols];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int j = 0; j < cols; j++) {
      if (into == Into::store) acc[r][j] = vf{};
      else if (into == Into::add) acc[r][j] = loadRegister<vf>(c + r * ldc + j * kWidth);
      else acc[r][j] = loadRegister<vf>(c + r * ldc + j * kWidth) * splat(factor[r]);
    }
  const auto step = [&](int64_t k) FP8_LAMBDA {
    vf bk[cols];
#pragma GCC unroll 8
    for (int j = 0; j < cols; j++) bk[j] = loadRegister<vf>(b + k * ldb + j * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      const vf ark = (vf)splat(int32_t(transA ? a[k * lda + r] : a[r * lda + k]));
#pragma GCC unroll 8
      for (int j = 0; j < cols; j++) acc[r][j] = dot(acc[r][j], ark, bk[j]);
    }
  };
  int64_t k = 0;
  for (; k + 2 <= depth; k += 2) step(k), step(k + 1);
  if (k < depth) step(k);
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int j = 0; j < cols; j++) memcpy(c + r * ldc + j * kWidth, &acc[r][j], sizeof(vf));
}

/// kDotRows rows of c, `columns` wide (a multiple of 16).
template <bool transA, Into into>
static void dotRows(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t ldb, int64_t depth, float* c, int64_t ldc,
                    int64_t columns, const float* factor = nullptr) {
  int64_t j = 0;
  for (; columns - j >= 4 * kWidth && (columns - j) % (3 * kWidth) != 0; j += 4 * kWidth) {
    dotTile<4, 4, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
    dotTile<4, 4, transA, into>(transA ? a + 4 : a + 4 * lda, lda, b + j, ldb, depth, c + j + 4 * ldc, ldc, factor + 4);
  }
  for (; columns - j >= 3 * kWidth; j += 3 * kWidth)
    dotTile<8, 3, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
  if (columns - j == 2 * kWidth) dotTile<8, 2, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
  if (columns - j == kWidth) dotTile<8, 1, transA, into>(a, lda, b + j, ldb, depth, c + j, ldc, factor);
}

/// 2^x where `seen`, elsewhere 0, and 0 below 2^-100, so that no product of it is subnormal. NaN stays NaN. Fraction and
/// whole part by vreduceps and vscalefps, which rounds down; between them a polynomial for 2^f on [0, 1) of degree 5,
/// minimax with p(0) = 1 (Remez): relative error 8.3e-8, 1.5e-7 as computed.
FP8_INLINE vf exp2OrZero(vf x, __mmask16 seen) {
  const vf f = _mm512_reduce_ps(x, 1);  // x - floor(x)
  vf p = splat(0.001867130050f);
  p = reg::mulAdd(p, f, splat(0.009017030708f));
  p = reg::mulAdd(p, f, splat(0.05579991266f));
  p = reg::mulAdd(p, f, splat(0.2401644439f));
  p = reg::mulAdd(p, f, splat(0.6931512952f));
  p = reg::mulAdd(p, f, splat(1.0f));
  const __mmask16 normal = _mm512_mask_cmp_ps_mask(seen, x, splat(-100.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(normal, p, x);
}

/// Which of 32 lanes lie before column `seen`, counted from the first lane.
FP8_INLINE uint32_t lanesBefore(int64_t seen) {
  return seen >= 32 ? ~0u : seen <= 0 ? 0u : (1u << seen) - 1;
}

/// 32 floats to bf16, rounded to nearest even.
FP8_INLINE __m512i toBf16(vf low, vf high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/// Lane r: the lanes of row[r] folded by f, eight rows at once; lanes from 8 on repeat them. Rows meet in pairs, then in
/// fours, then in eights.
template <class F> FP8_INLINE vf foldRows(const vf* row, F f) {
  vf two[4], four[2];
  for (int i = 0; i < 4; i++) {
    const vf a = row[2 * i], b = row[2 * i + 1];
    two[i] = f(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  for (int i = 0; i < 2; i++) {
    const vf a = two[2 * i], b = two[2 * i + 1];
    four[i] = f(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  const vf eight = f(_mm512_unpacklo_ps(four[0], four[1]), _mm512_unpackhi_ps(four[0], four[1]));
  const vf all = f(eight, _mm512_permute_ps(eight, 0x4e));
  return _mm512_permutexvar_ps((__m512i)vi{0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13}, all);
}

/// ln x of normal x >= 0.75: ln 2 times the exponent, and 2 atanh((m - 1) / (m + 1)) of the mantissa in [0.75, 1.5), as a
/// series in at most 0.2; absolute error 1e-7 or so.
FP8_INLINE vf logOf(vf x) {
  const vf m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src), e = _mm512_getexp_ps(x / m);
  const vf s = (m - splat(1.0f)) / (m + splat(1.0f)), square = s * s;
  vf p = splat(1.0f / 9);
  p = reg::mulAdd(p, square, splat(1.0f / 7));
  p = reg::mulAdd(p, square, splat(1.0f / 5));
  p = reg::mulAdd(p, square, splat(1.0f / 3));
  p = reg::mulAdd(p, square, splat(1.0f));
  return reg::mulAdd(e, splat(0.693147181f), (s + s) * p);
}
