// Rotary position embedding, half-rotation: pairs (i, i + dim / 2), for one instruction set.
#include "rope.h"

#include "vec.h"

namespace fp8lm::FP8_VEC {
namespace {

template <class Y, class X>
void rotateRows(const RopeArgs& a, const float* cosines, const float* sines, int64_t begin, int64_t end) {
  const int64_t half = a.dim / 2, width = (a.heads + 2 * a.kvHeads) * a.dim, rotated = (a.heads + a.kvHeads) * a.dim;
  for (int64_t r = begin; r < end; r++) {
    const X* x = a.x->as<X>() + r * width;
    Y* y = a.y->as<Y>() + r * width;
    for (int64_t h = 0; h < rotated; h += a.dim)
      forVectors(0, half, [&](int64_t i, int64_t n) FP8_LAMBDA {
        const F32 x1 = loadAt(x + h, i, n), x2 = loadAt(x + h + half, i, n);
        const F32 c = loadAt(cosines, i, n), s = loadAt(sines, i, n);
        storeAt(y + h, i, x1 * c - x2 * s, n);
        storeAt(y + h + half, i, x2 * c + x1 * s, n);
      });
    if (a.x->data != a.y->data)
      forVectors(rotated, width, [&](int64_t i, int64_t n) FP8_LAMBDA { storeAt(y, i, loadAt(x, i, n), n); });
  }
}

void rotate(const RopeArgs& a, const float* cosines, const float* sines, int64_t begin, int64_t end) {
  const bool y16 = a.y->dtype == DType::bf16, x16 = a.x->dtype == DType::bf16;
  if (y16 && x16) rotateRows<BF16, BF16>(a, cosines, sines, begin, end);
  else if (y16) rotateRows<BF16, float>(a, cosines, sines, begin, end);
  else if (x16) rotateRows<float, BF16>(a, cosines, sines, begin, end);
  else rotateRows<float, float>(a, cosines, sines, begin, end);
}

}  // namespace

const RopeTable rope = {rotate};

}  // namespace fp8lm::FP8_VEC
