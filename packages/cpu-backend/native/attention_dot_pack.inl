// Operands of the dot variant: bf16 as stored, exact. A head's rows become, padded with zeros,
//   rows     [t][width]                  pairs along d: the left operand of Q K^T and dO V^T
//   panels   [block][width / 2][kBlock]  dwords, the transposed rows of a block: their right operand
//   zipped   [t / 2][width]              dwords (row t, row t + 1): the right operand of P V, dS K, P^T dO and dS^T Q

inline int64_t dotWidth(const AttentionArgs& x) { return roundUp(x.dim, 32); }

/// `count` rows from t0 as they are, zero from there to row `padded` and from dim to width.
inline void packBf16Rows(uint16_t* out, int64_t width, int64_t padded, const HeadView& x, int64_t b, int64_t head,
                         int64_t dim, int64_t t0, int64_t count) {
  const uint16_t* row = static_cast<const uint16_t*>(rowOf(x, t0, b, head, dim));
  const uint32_t tail = lanesBefore(dim % 32);
  for (int64_t i = 0; i < count; i++, row += x.step, out += width) {
    int64_t d = 0;
    for (; d + 32 <= dim; d += 32) _mm512_storeu_si512(out + d, _mm512_loadu_si512(row + d));
    if (d < dim) _mm512_storeu_si512(out + d, _mm512_maskz_loadu_epi16(tail, row + d));
  }
  if (padded > count) memset(out, 0, size_t((padded - count) * width) * sizeof(uint16_t));
}

/// f(t, rows, stride) for sixteen rows from t = 0, 16, … of a head, zero from `count` and dim on: where they lie, if
/// nothing has to be padded, else in `copy`.
template <class F>
FP8_INLINE void forSixteenRows(const HeadView& x, int64_t b, int64_t head, int64_t dim, int64_t width, int64_t count,
                               uint16_t* copy, F f) {
  for (int64_t t = 0; t < count; t += kLanes) {
    const uint16_t* rows = static_cast<const uint16_t*>(rowOf(x, t, b, head, dim));
    for (int64_t i = t + kLanes; i < least(t + 2 * kLanes, count); i++)
      prefetchRow(rows + (i - t) * x.step, dim * int64_t(sizeof(uint16_t)));
    if (dim == width && t + kLanes <= count) {
      f(t, rows, x.step);
    } else {
      packBf16Rows(copy, width, kLanes, x, b, head, dim, t, least(kLanes, count - t));
      f(t, copy, width);
    }
  }
}

/// Sixteen rows, from t, to their place.
FP8_INLINE void copyRows(uint32_t* out, int64_t t, const uint16_t* rows, int64_t stride, int64_t width) {
  for (int64_t i = 0; i < kLanes; i++)
    for (int64_t d = 0; d < width; d += 32)
      _mm512_storeu_si512(out + ((t + i) * width + d) / 2, _mm512_loadu_si512(rows + i * stride + d));
}

/// The same transposed, to their place in the panels.
FP8_INLINE void packPanel(uint32_t* panels, int64_t t, const uint16_t* rows, int64_t stride, int64_t width) {
  uint32_t* panel = panels + t / kBlock * (width / 2) * kBlock + t % kBlock;
  for (int64_t d = 0; d < width; d += 32)
    transposeTile(reinterpret_cast<const float*>(rows + d), stride / 2, reinterpret_cast<float*>(panel + d / 2 * kBlock),
                  kBlock);
}

alignas(64) constexpr uint16_t kZipLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                              8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
alignas(64) constexpr uint16_t kZipHigh[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                               24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};

/// Two rows of 32 to pairs: out[j] = (even[j], odd[j]).
FP8_INLINE void zip(uint32_t* out, __m512i even, __m512i odd) {
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(even, _mm512_load_si512(kZipLow), odd));
  _mm512_storeu_si512(out + 16, _mm512_permutex2var_epi16(even, _mm512_load_si512(kZipHigh), odd));
}

/// Sixteen rows, from t, to pairs of rows.
FP8_INLINE void zipRows(uint32_t* out, int64_t t, const uint16_t* rows, int64_t stride, int64_t width) {
  for (int64_t i = 0; i < kLanes; i += 2)
    for (int64_t d = 0; d < width; d += 32)
      zip(out + (t + i) / 2 * width + d, _mm512_loadu_si512(rows + i * stride + d),
          _mm512_loadu_si512(rows + (i + 1) * stride + d));
}

/// One row of a head times factor.
FP8_INLINE void writeDotRow(const HeadView& x, int64_t t, int64_t b, int64_t head, int64_t dim, const float* from,
                            float factor) {
  if (x.dtype != DType::bf16) return writeRow(x, t, b, head, dim, from, factor);
  uint16_t* row = static_cast<uint16_t*>(rowOf(x, t, b, head, dim));
  for (int64_t d = 0; d < dim; d += 32) {
    const vf low = loadRegister<vf>(from + d) * splat(factor), high = loadRegister<vf>(from + d + kLanes) * splat(factor);
    _mm512_mask_storeu_epi16(row + d, lanesBefore(dim - d), toBf16(low, high));
  }
}
