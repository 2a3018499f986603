// softmax_cross_entropy against float64, its gradient against finite differences of the float64 loss.
namespace fp8lm::check {

inline double plainLoss(const std::vector<double>& x, int64_t target, double smoothing,
                        std::vector<double>* p = nullptr) {
  double top = -INFINITY, sum = 0, mean = 0;
  for (double v : x) top = std::max(top, v);
  for (double v : x) sum += std::exp(v - top), mean += v / double(x.size());
  const double lse = top + std::log(sum);
  if (p)
    for (size_t i = 0; i < x.size(); i++) (*p)[i] = std::exp(x[i] - lse);
  return (1 - smoothing) * (lse - x[size_t(target)]) + (smoothing > 0 ? smoothing * (lse - mean) : 0);
}

inline void checkLoss() {
  for (int64_t vocab : {1, 2, 15, 16, 17, 259, 5003, 50304})
    for (DType type : {DType::f32, DType::bf16})
      for (double smoothing : {0.0, 0.1}) {
        const int64_t rows = vocab > 1000 ? 6 : 13;
        const double gain = 0.37, spread = 3;
        const std::string what =
            "softmax_cross_entropy vocab " + std::to_string(vocab) + (type == DType::bf16 ? " bf16" : " f32");
        Buffer logits(type, rows * vocab, 31, spread), loss(DType::f32, rows), targets(DType::i32, rows);
        for (int64_t r = 0; r < rows; r++)
          targets.put(r, int32_t(r == 3 ? -1 : r == 4 ? vocab : r == 5 ? INT32_MAX : (r * 7919 + vocab - 1) % vocab));
        const std::vector<double> x = logits.values();
        std::vector<double> want(x.size(), 0.0), wantLoss(size_t(rows), 0.0), p(size_t(vocab), 0.0);
        for (int64_t r = 0; r < rows; r++) {
          const int64_t target = targets.at<int32_t>(r);
          const std::vector<double> row(x.begin() + r * vocab, x.begin() + (r + 1) * vocab);
          if (target < 0) continue;
          if (target >= vocab) wantLoss[size_t(r)] = NAN;
          else wantLoss[size_t(r)] = plainLoss(row, target, smoothing, &p);
          for (int64_t i = 0; i < vocab; i++)
            want[size_t(r * vocab + i)] =
                target >= vocab ? NAN
                                : gain * (p[size_t(i)] - (i == target ? 1 - smoothing : 0) - smoothing / double(vocab));
        }
        const std::vector<unsigned char> before = logits.bytes;
        softmax_cross_entropy(logits.tensor(), loss.tensor(), targets.tensor(), rows, vocab, vocab, gain, smoothing, 0);
        close(loss, wantLoss, 1e-6, what + " loss");
        fact(logits.bytes == before, what + ": without backward the logits stay");
        softmax_cross_entropy(logits.tensor(), loss.tensor(), targets.tensor(), rows, vocab, vocab, gain, smoothing, 1);
        close(loss, wantLoss, 1e-6, what + " loss");
        close(logits, want, type == DType::bf16 ? 4e-3 : 1e-6, what + " gradient", gain);
        if (vocab == 17 && type == DType::f32)
          for (int64_t i = 0; i < 3 * vocab; i++) {
            std::vector<double> row(x.begin() + i / vocab * vocab, x.begin() + (i / vocab + 1) * vocab);
            const int64_t target = targets.at<int32_t>(i / vocab);
            const double step = 1e-5;
            row[size_t(i % vocab)] += step;
            const double up = plainLoss(row, target, smoothing);
            row[size_t(i % vocab)] -= 2 * step;
            const double difference = gain * (up - plainLoss(row, target, smoothing)) / (2 * step);
            fact(std::fabs(difference - logits.get(i)) < 1e-6,
                 what + ": finite difference of element " + std::to_string(i));
          }
      }
  Buffer row(DType::f32, 40, 1), loss(DType::f32, 1), target(DType::i32, 1);
  target.put(0, int32_t(2));
  row.set(33, NAN);
  softmax_cross_entropy(row.tensor(), loss.tensor(), target.tensor(), 1, 40, 40, 1, 0, 1);
  fact(std::isnan(loss.get(0)) && std::isnan(row.get(0)),
       "softmax_cross_entropy: a NaN logit makes loss and gradient NaN");
}

}  // namespace fp8lm::check
