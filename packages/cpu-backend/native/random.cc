// dropout and random_normal: every element's bits follow from (seed, stream, offset + index) alone (philox.h), so the
// split over threads is free.
#include "random.h"

#include <stdexcept>
#include <string>

#include "kernels.gen.h"
#include "ranges.h"

namespace fp8lm {

void dropout(const Tensor& y, const Tensor& x, const Tensor& residual, int64_t n, double rate, int64_t seed,
             int64_t stream, int64_t offset) {
  if (!(rate >= 0 && rate < 1))
    throw std::invalid_argument("rate is " + std::to_string(rate) + "; expected 0 <= rate < 1");
  const DropoutArgs args{&y,
                         &x,
                         &residual,
                         dropoutThreshold(rate),
                         float(1 / (1 - rate)),
                         philoxKey(uint64_t(seed)),
                         uint64_t(stream),
                         uint64_t(offset)};
  const RandomTable& table = randomTable();
  forRanges(n, [&](int, int64_t begin, int64_t end) { table.dropout(args, begin, end); }, 4096);
}

void random_normal(const Tensor& y, int64_t n, double std, int64_t seed, int64_t stream, int64_t offset) {
  const NormalArgs args{y.as<float>(), float(std), philoxKey(uint64_t(seed)), uint64_t(stream), uint64_t(offset)};
  const RandomTable& table = randomTable();
  forRanges(n, [&](int, int64_t begin, int64_t end) { table.normal(args, begin, end); }, 1024);
}

}  // namespace fp8lm
