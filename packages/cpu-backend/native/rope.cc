// rope: angles in float64, rotation in float32 (rope.inl). Cosine and sine are computed afresh at every 64th position
// and stepped from there by rotating in float64 (error below 1e-13), so that they cost little and depend on the
// position alone.
#include "rope.h"

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.gen.h"
#include "ranges.h"

namespace fp8lm {
namespace {

/// Cosines and sines of one position after another.
class Angles {
 public:
  Angles(int64_t half, double theta, bool inverse)
      : half_(size_t(half)),
        sign_(inverse ? -1 : 1),
        frequency(half_),
        cosStep(half_),
        sinStep(half_),
        cosNow(half_),
        sinNow(half_),
        cosines(half_),
        sines(half_) {
    for (size_t i = 0; i < half_; i++) {
      frequency[i] = std::pow(theta, -double(i) / double(half));
      cosStep[i] = std::cos(frequency[i]);
      sinStep[i] = std::sin(frequency[i]);
    }
  }

  void moveTo(int64_t position) {
    if (position == now_) return;
    const int64_t anchor = position & ~int64_t(63);
    if (now_ < anchor || now_ > position) {
      for (size_t i = 0; i < half_; i++) {
        cosNow[i] = std::cos(double(anchor) * frequency[i]);
        sinNow[i] = std::sin(double(anchor) * frequency[i]);
      }
      now_ = anchor;
    }
    for (; now_ < position; now_++)
      for (size_t i = 0; i < half_; i++) {
        const double c = cosNow[i], s = sinNow[i];
        cosNow[i] = c * cosStep[i] - s * sinStep[i];
        sinNow[i] = s * cosStep[i] + c * sinStep[i];
      }
    for (size_t i = 0; i < half_; i++) {
      cosines[i] = float(cosNow[i]);
      sines[i] = float(sign_ * sinNow[i]);
    }
  }

  const float* cosine() const { return cosines.data(); }
  const float* sine() const { return sines.data(); }

 private:
  size_t half_;
  double sign_;
  int64_t now_ = INT64_MIN;
  std::vector<double> frequency, cosStep, sinStep, cosNow, sinNow;
  std::vector<float> cosines, sines;
};

}  // namespace

void rope(const Tensor& y, const Tensor& x, int64_t rows, int64_t batch, int64_t heads, int64_t kv_heads,
          int64_t head_dim, int64_t position, double theta, int64_t inverse) {
  if (head_dim < 2 || head_dim % 2 != 0)
    throw std::invalid_argument("head_dim is " + std::to_string(head_dim) + "; expected a multiple of 2");
  if (batch < 1 || rows % batch != 0)
    throw std::invalid_argument("rows is " + std::to_string(rows) + "; expected a multiple of batch (" +
                                std::to_string(batch) + ")");
  const RopeArgs args{&y, &x, heads, kv_heads, head_dim};
  const RopeTable& table = ropeTable();
  forRows(rows, (heads + 2 * kv_heads) * head_dim, [&](int, int64_t begin, int64_t end) {
    Angles angles(head_dim / 2, theta, inverse != 0);
    while (begin < end) {
      const int64_t t = begin / batch, next = (t + 1) * batch < end ? (t + 1) * batch : end;
      angles.moveTo(position + t);
      table.rotate(args, angles.cosine(), angles.sine(), begin, next);
      begin = next;
    }
  });
}

}  // namespace fp8lm
