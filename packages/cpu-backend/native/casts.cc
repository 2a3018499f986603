// The cast group of kernels.def: scale decisions and threads; the loops are in casts_body.h.
#include "casts.h"

#include <algorithm>
#include <stdexcept>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "../../fp8-kernels/native/philox.h"
#include "ranges.h"

namespace fp8lm {

namespace {

float amaxOf(const Tensor& x, int64_t n) {
  const AmaxFn fn = castsTable().amax[typeIndex(x)];
  const CastStats stats = mergeRanges<CastStats>(n, [&](int64_t begin, int64_t end) {
    return CastStats{fn(x.data, begin, end), 0};
  });
  return stats.amax * (x.scale ? x.scaleInv() : 1.0f);
}

// --- stochastic rounding: element by element, with float8.h -------------------------------------------------------------
float decode(const Tensor& x, int64_t i) {
  switch (x.dtype) {
    case DType::bf16: return decodeBF16(x.as<uint16_t>()[i]);
    case DType::f16: return decodeF16(x.as<uint16_t>()[i]) * x.scaleInv();
    case DType::e4m3: return decodeE4M3(x.as<uint8_t>()[i]) * x.scaleInv();
    case DType::e5m2: return decodeE5M2(x.as<uint8_t>()[i]) * x.scaleInv();
    default: return x.as<float>()[i];
  }
}

void encodeStochastic(const Tensor& y, int64_t i, float t, uint32_t word) {
  if (y.dtype == DType::e4m3) y.as<uint8_t>()[i] = encodeE4M3Stochastic(t, word);
  else if (y.dtype == DType::e5m2) y.as<uint8_t>()[i] = encodeE5M2Stochastic(t, word);
  else {
    const uint32_t u = bitsOf(t), abs = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
    uint32_t code = 0x7e00u;
    if (abs <= 0x7f800000u) {
      code = abs >= 0x7f000000u ? 0x7c00u : roundMagnitudeStochastic<10, 15>(abs, word);
      if (code > 0x7bffu) code = 0x7bffu;
    }
    y.as<uint16_t>()[i] = uint16_t(sign | code);
  }
}

CastStats castStochastic(const Tensor& y, const Tensor& x, float scale, int64_t random, int64_t begin, int64_t end) {
  const PhiloxKey key = philoxKey(uint64_t(random));
  const float limit = maxOf(y.dtype);
  uint32_t largest = 0;
  CastStats stats;
  PhiloxWords words{};
  for (int64_t i = begin; i < end; i++) {  // begin is a multiple of 4
    if ((i & 3) == 0) words = philox(key, uint64_t(i) >> 2, kRoundingStream);
    const float v = decode(x, i), t = v * scale;
    const uint32_t bits = bitsOf(v) & 0x7fffffffu;
    if (bits > largest) largest = bits;
    stats.saturated += std::fabs(t) > limit;
    encodeStochastic(y, i, t, words.w[i & 3]);
  }
  stats.amax = floatOf(largest > 0x7f800000u ? 0x7f800000u : largest);
  return stats;
}

/// y = x at a given scale; for f32 and bf16 outputs the scale and `random` play no part.
CastStats castAll(const Tensor& y, const Tensor& x, float scale, int64_t n, int64_t random) {
  const bool scaled = y.dtype >= DType::f16;
  const CastFn fn = castsTable().cast[typeIndex(y)][typeIndex(x)];
  return mergeRanges<CastStats>(n, [&](int64_t begin, int64_t end) {
    return random && scaled ? castStochastic(y, x, scale, random, begin, end)
                            : fn(y.data, x.data, x.scaleInv(), scale, begin, end);
  });
}

}  // namespace

/// Scaled dtypes keep their scale: the stored code is that of value * scale.
void fill(const Tensor& y, int64_t n, double value) {
  const auto put = [&](auto code) {
    using Code = decltype(code);
    forRanges(n, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) y.as<Code>()[i] = code;
    });
  };
  const float x = float(value), scale = y.scale ? y.scale[kScale] : 1.0f;
  switch (y.dtype) {
    case DType::f32: put(x); break;
    case DType::bf16: put(encodeBF16(x)); break;
    case DType::f16: put(encodeF16(x * scale, true)); break;
    case DType::e4m3: put(encodeE4M3(x * scale)); break;
    case DType::e5m2: put(encodeE5M2(x * scale)); break;
    default: put(int32_t(value)); break;
  }
  if (y.scale) {
    const bool over = std::fabs(x * scale) > maxOf(y.dtype);
    writeScale(y, scale, CastStats{std::fabs(x), over ? n : 0});
  }
}

void cast(const Tensor& y, const Tensor& x, int64_t n, int64_t random) {
  const bool scaled = y.dtype >= DType::f16;
  const float scale = scaled && y.scale ? y.scale[kScale] : 1.0f;
  const CastStats stats = castAll(y, x, scale, n, random);
  if (scaled) writeScale(y, scale, stats);
}

/// The amax that chooses a just-in-time scale: told by the caller, recorded by the cast that wrote x, or measured.
static float amaxFor(const Tensor& x, const Tensor& known, int64_t n) {
  if (known) return known.as<float>()[0];
  if (x.scale && x.scale[kAmax] > 0.0f) return x.scale[kAmax];
  return amaxOf(x, n);
}

void quantize(const Tensor& y, const Tensor& x, const Tensor& window, const Tensor& mu, const Tensor& known, int64_t n, int64_t random) {
  writeScaled(
      y, window, mu ? mu.as<float>()[0] : 1.0f, [&] { return amaxFor(x, known, n); },
      [&](float scale) { return castAll(y, x, scale, n, random); });
}

void quantize_rows(const Tensor& y, const Tensor& transposed, const Tensor& sums, const Tensor& x, const Tensor& window,
                   int64_t rows, int64_t dim, int64_t random) {
  if (transposed && transposed.dtype != y.dtype) throw std::invalid_argument("transposed and y must have one dtype");
  writeScaled(
      y, window, 1.0f, [&] { return amaxOf(x, rows * dim); },
      [&](float scale) {
        if (!sums) return castAll(y, x, scale, rows * dim, random);
        std::vector<CastStats> parts(static_cast<size_t>(numThreads()));
        const CastRowsFn fn = castsTable().castRows[typeIndex(y) - int(DType::e4m3)][typeIndex(x)];
        const auto sumsOnly = castsTable().columnSums[typeIndex(x)];
        addChunks(RowChunks(rows), dim, dim, {sums.as<float>(), nullptr}, [&](int thread, float* partial, int64_t begin, int64_t end) {
          if (random) sumsOnly(partial, x.data, begin, end, dim);
          else parts[size_t(thread)].merge(fn(y.data, partial, x.data, scale, begin, end, dim));
        });
        if (random) return castAll(y, x, scale, rows * dim, random);
        for (size_t i = 1; i < parts.size(); i++) parts[0].merge(parts[i]);
        return parts[0];
      });
  if (!transposed) return;
  // For backends whose products want it; here no op asks.
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < dim; c++) transposed.as<uint8_t>()[c * rows + r] = y.as<uint8_t>()[r * dim + c];
  std::copy_n(y.scale, int(kScaleBlock), transposed.scale);
}

void column_sums(const Tensor& y, const Tensor& x, int64_t rows, int64_t dim) {
  const auto fn = castsTable().columnSums[typeIndex(x)];
  addChunks(RowChunks(rows), dim, dim, {y.as<float>(), nullptr}, [&](int, float* partial, int64_t begin, int64_t end) {
    fn(partial, x.data, begin, end, dim);
  });
}

void accumulate_fp8(const Tensor& y, const Tensor& x, const Tensor& mu, int64_t n) {
  const int to = typeIndex(y) - int(DType::e4m3), from = typeIndex(x);
  const float inv = y.scaleInv();
  writeScaled(
      y, Tensor{}, mu ? mu.as<float>()[0] : 1.0f,
      [&] {
        return mergeRanges<CastStats>(n, [&](int64_t begin, int64_t end) {
                 return CastStats{castsTable().accumulateAmax[to][from](y.data, x.data, inv, begin, end), 0};
               }).amax;
      },
      [&](float scale) {
        return mergeRanges<CastStats>(n, [&](int64_t begin, int64_t end) {
          return castsTable().accumulate[to][from](y.data, x.data, inv, scale, begin, end);
        });
      });
}

void amax(const Tensor& y, const Tensor& x, int64_t n) { y.as<float>()[0] = amaxOf(x, n); }

void window_update(const Tensor& windows, int64_t count, double max) {
  for (int64_t i = 0; i < count; i++) {
    float* const w = windows.as<float>() + i * kWindowBlock;
    float* const history = w + kWindowHistory;
    float a = w[kWindowAmax];
    const bool bad = (bitsOf(a) & 0x7fffffffu) >= 0x7f800000u;
    if (bad) a = 0.0f;
    float largest = a;
    for (int k = 0; k < kWindow - 1; k++) largest = history[k] > largest ? history[k] : largest;
    w[kWindowScale] = scaleFor(largest, float(max), w[kWindowScale] > 0 ? w[kWindowScale] : 1.0f);
    for (int k = kWindow - 2; k > 0; k--) history[k] = history[k - 1];
    history[0] = a;
    w[kWindowCount] = bad ? 0.0f : w[kWindowCount] + 1 < float(kWindow) ? w[kWindowCount] + 1 : float(kWindow);
    w[kWindowAmax] = 0.0f;
  }
}

/// Codes at either end of the range.
static int64_t countMax(const Tensor& x, int64_t n) {
  const uint8_t code = x.dtype == DType::e4m3 ? 0x7e : 0x7b;
  const CastStats stats = mergeRanges<CastStats>(n, [&](int64_t begin, int64_t end) {
    return CastStats{0.0f, castsTable().countCodes(x.as<uint8_t>(), code, begin, end)};
  });
  return stats.saturated;
}

static void follow(const Tensor& mu, double count, double total, double threshold, double growth) {
  float& value = mu.as<float>()[0];
  value = total > 0 && count / total > threshold ? value * 0.5f : value * float(growth);
}

void mu_update(const Tensor& mu, const Tensor& x, int64_t n, double threshold, double growth) {
  follow(mu, double(countMax(x, n)), double(n), threshold, growth);
}

void saturated(const Tensor& y, const Tensor& x, int64_t n) { y.as<float>()[0] = float(countMax(x, n)); }

void mu_follow(const Tensor& mu, const Tensor& count, double total, double threshold, double growth) {
  follow(mu, double(count.as<float>()[0]), total, threshold, growth);
}

}  // namespace fp8lm
