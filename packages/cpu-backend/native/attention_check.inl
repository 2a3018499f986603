// Attention in plain float64, written from the definition, and the checks against it.
namespace fp8lm::check {

struct AttentionCase {
  int64_t seq, batch, heads, kvHeads, dim;
  DType type;
  int64_t wide() const { return (heads + 2 * kvHeads) * dim; }
  std::string name(const char* kernel) const {
    return std::string(kernel) + (type == DType::bf16 ? " bf16" : " f32") + " T " + std::to_string(seq) + " B " +
           std::to_string(batch) + " heads " + std::to_string(heads) + "/" + std::to_string(kvHeads) + " D " +
           std::to_string(dim);
  }
};

/// Beside each value, what it may be off by where P, dS, y and the result are rounded to bf16 (to nearest, so by 2^-8 of
/// themselves): an error of sum a_i b_i is at most 2^-8 sum |a_i b_i|, and that of dS through y at most P sum |dy| |error of
/// y|. To the 2^-8 comes what float32 leaves open in the exponent, a few 2^-24 of the largest score; 3 % cover second order.
/// Probabilities below 2^-100 may count as none.
struct AttentionResult {
  std::vector<double> y, lse, dqkv, yError, dqkvError;
};

/// y and lse; with dy also dqkv. Row r = t * batch + b of qkv is q | k | v, heads major.
inline AttentionResult plainAttention(const AttentionCase& c, const std::vector<double>& qkv,
                                      const std::vector<double>* dy, double scale) {
  AttentionResult out;
  out.y.assign(size_t(c.seq * c.batch * c.heads * c.dim), 0.0);
  out.lse.assign(size_t(c.batch * c.heads * c.seq), 0.0);
  out.yError = out.y;
  if (dy) out.dqkv.assign(qkv.size(), 0.0);
  out.dqkvError = out.dqkv;
  std::vector<double> p(size_t(c.seq), 0.0), dp(size_t(c.seq), 0.0);
  for (int64_t b = 0; b < c.batch; b++)
    for (int64_t h = 0; h < c.heads; h++) {
      const int64_t g = h / (c.heads / c.kvHeads);
      auto q = [&](int64_t t) { return size_t((t * c.batch + b) * c.wide() + h * c.dim); };
      auto k = [&](int64_t t) { return size_t((t * c.batch + b) * c.wide() + (c.heads + g) * c.dim); };
      auto v = [&](int64_t t) { return size_t((t * c.batch + b) * c.wide() + (c.heads + c.kvHeads + g) * c.dim); };
      for (int64_t t = 0; t < c.seq; t++) {
        const size_t row = size_t((t * c.batch + b) * c.heads * c.dim + h * c.dim);
        double top = -INFINITY, sum = 0, largest = 0;
        for (int64_t j = 0; j <= t; j++) {
          double s = 0;
          for (int64_t d = 0; d < c.dim; d++) s += qkv[q(t) + size_t(d)] * qkv[k(j) + size_t(d)];
          p[size_t(j)] = s * scale;
          top = std::max(top, s * scale);
          largest = std::max(largest, std::fabs(s * scale));
        }
        for (int64_t j = 0; j <= t; j++) sum += std::exp(p[size_t(j)] - top);
        const double lse = top + std::log(sum);
        out.lse[size_t((b * c.heads + h) * c.seq + t)] = lse;
        double delta = 0, deltaError = 0;
        const double none = std::ldexp(1, -100);
        const double unit = 1.03 * std::ldexp(1, -8) + std::ldexp(1 + largest, -22);
        for (int64_t j = 0; j <= t; j++) {
          p[size_t(j)] = std::exp(p[size_t(j)] - lse);
          for (int64_t d = 0; d < c.dim; d++) {
            const double part = p[size_t(j)] * qkv[v(j) + size_t(d)];
            out.y[row + size_t(d)] += part;
            out.yError[row + size_t(d)] += unit * std::fabs(part) + none * std::fabs(qkv[v(j) + size_t(d)]);
          }
        }
        for (int64_t d = 0; d < c.dim; d++) out.yError[row + size_t(d)] += unit * std::fabs(out.y[row + size_t(d)]);
        if (!dy) continue;
        for (int64_t d = 0; d < c.dim; d++)
          deltaError += std::fabs((*dy)[row + size_t(d)]) * out.yError[row + size_t(d)];
        for (int64_t j = 0; j <= t; j++) {
          dp[size_t(j)] = 0;
          for (int64_t d = 0; d < c.dim; d++) dp[size_t(j)] += (*dy)[row + size_t(d)] * qkv[v(j) + size_t(d)];
          delta += p[size_t(j)] * dp[size_t(j)];
        }
        for (int64_t j = 0; j <= t; j++) {
          const double pj = p[size_t(j)], ds = pj * (dp[size_t(j)] - delta) * scale;
          const double dsError = unit * std::fabs(ds) + (pj * deltaError + none * std::fabs(dp[size_t(j)] - delta)) * scale;
          for (int64_t d = 0; d < c.dim; d++) {
            const size_t atQ = q(t) + size_t(d), atK = k(j) + size_t(d), atV = v(j) + size_t(d);
            const double dyd = (*dy)[row + size_t(d)];
            out.dqkv[atQ] += ds * qkv[atK];
            out.dqkv[atK] += ds * qkv[atQ];
            out.dqkv[atV] += pj * dyd;
            out.dqkvError[atQ] += dsError * std::fabs(qkv[atK]);
            out.dqkvError[atK] += dsError * std::fabs(qkv[atQ]);
            out.dqkvError[atV] += (unit * pj + none) * std::fabs(dyd);
          }
        }
      }
    }
  for (size_t i = 0; i < out.dqkv.size(); i++) out.dqkvError[i] += std::ldexp(1.03, -8) * std::fabs(out.dqkv[i]);
  return out;
}

struct AttentionRun {
  Buffer qkv, y, lse, dy, dqkv;
  explicit AttentionRun(const AttentionCase& c, double spread = 1.0)
      : qkv(c.type, c.seq * c.batch * c.wide(), 11, spread),
        y(c.type, c.seq * c.batch * c.heads * c.dim),
        lse(DType::f32, c.batch * c.heads * c.seq),
        dy(c.type, y.n, 12),
        dqkv(c.type, qkv.n) {}
  void forward(const AttentionCase& c, double scale) {
    attention_forward(y.tensor(), lse.tensor(), qkv.tensor(), c.seq, c.batch, c.heads, c.kvHeads, c.dim, scale);
  }
  void backward(const AttentionCase& c, double scale) {
    attention_backward(dqkv.tensor(), dy.tensor(), y.tensor(), lse.tensor(), qkv.tensor(), c.seq, c.batch, c.heads,
                       c.kvHeads, c.dim, scale);
  }
};

/// f32: rounding of sums of T or D terms. bf16: outputs keep 8 bits, and y, rounded, enters the gradient through delta.
inline double toleranceOf(DType type) { return type == DType::bf16 ? 6e-3 : 4e-6; }

/// A spread of s makes scores s^2 times as large, and with them the rounding error in the exponent.
inline void checkCase(const AttentionCase& c, double spread = 1.0) {
  const double scale = 1 / std::sqrt(double(c.dim)), tolerance = toleranceOf(c.type);
  AttentionRun run(c, spread);
  const std::vector<double> dy = run.dy.values();
  const AttentionResult want = plainAttention(c, run.qkv.values(), &dy, scale);
  run.forward(c, scale);
  if (c.type == DType::bf16) within(run.y, want.y, want.yError, c.name("attention_forward y"));
  else close(run.y, want.y, tolerance * spread, c.name("attention_forward y"));
  close(run.lse, want.lse, 2e-6, c.name("attention_forward lse"));
  run.backward(c, scale);
  if (c.type == DType::bf16) within(run.dqkv, want.dqkv, want.dqkvError, c.name("attention_backward"));
  else close(run.dqkv, want.dqkv, tolerance * spread * spread, c.name("attention_backward"));
  fact(run.qkv.intact() && run.dy.intact(), c.name("attention inputs' guards"));
  // The same bits with any number of threads, whichever way the backward was split.
  const int threads = numThreads();
  const std::vector<unsigned char> y = run.y.bytes, dqkv = run.dqkv.bytes;
  for (int other : {1, 3, 7}) {
    setNumThreads(other);
    run.forward(c, scale);
    run.backward(c, scale);
    fact(run.y.bytes == y && run.dqkv.bytes == dqkv, c.name("attention: same bits with other thread counts"));
  }
  setNumThreads(threads);
}

inline void checkAttention() {
  for (int64_t seq : {1, 2, 5, 63, 64, 65, 95, 96, 97, 130, 200})
    for (int64_t dim : {8, 20, 64, 128})
      for (DType type : {DType::f32, DType::bf16}) checkCase({seq, seq % 2 ? 3 : 1, 2, dim == 64 ? 1 : 2, dim, type});
  checkCase({300, 1, 6, 2, 32, DType::bf16});
  checkCase({300, 2, 4, 1, 33, DType::f32});
  checkCase({601, 1, 2, 1, 64, DType::bf16});  // more keys than the dot variant takes at once
  checkCase({577, 1, 1, 1, 104, DType::bf16});
  checkCase({33, 1, 1, 1, 256, DType::f32});
  checkCase({200, 1, 2, 2, 64, DType::f32}, 6.0);  // peaked: scores to about 100
  checkCase({200, 1, 2, 2, 64, DType::bf16}, 6.0);
  checkCase({310, 1, 2, 2, 65, DType::bf16}, 20.0);  // most probabilities vanish
}

/// dqkv against central differences of the float64 forward, L = sum y * dy, at some elements.
inline void checkAttentionGradient() {
  const AttentionCase c{21, 2, 4, 2, 12, DType::f32};
  const double scale = 0.3, step = 1e-5;
  AttentionRun run(c);
  run.forward(c, scale);
  run.backward(c, scale);
  std::vector<double> qkv = run.qkv.values();
  const std::vector<double> dy = run.dy.values(), plain = plainAttention(c, qkv, &dy, scale).dqkv;
  auto loss = [&] {
    const AttentionResult r = plainAttention(c, qkv, nullptr, scale);
    double sum = 0;
    for (size_t i = 0; i < dy.size(); i++) sum += r.y[i] * dy[i];
    return sum;
  };
  for (int64_t i = 0; i < run.qkv.n; i += 7) {
    const double x = qkv[size_t(i)];
    qkv[size_t(i)] = x + step;
    const double up = loss();
    qkv[size_t(i)] = x - step;
    const double down = loss();
    qkv[size_t(i)] = x;
    const double want = (up - down) / (2 * step), got = run.dqkv.get(i);
    const double error = std::fabs(got - want) / (1e-5 * (1 + std::fabs(want)));
    counter.worst = std::max(counter.worst, error);
    fact(error <= 1, "attention_backward: element " + std::to_string(i) + " is " + std::to_string(got) +
                         ", finite difference " + std::to_string(want));
    // And so does what every other case is held against.
    fact(std::fabs(plain[size_t(i)] - want) <= 1e-7 * (1 + std::fabs(want)), "plainAttention: gradient");
  }
}

/// A sequence fed to the cache in pieces gives what the forward gives at once.
inline void checkCached() {
  for (DType type : {DType::f32, DType::bf16})
    for (int64_t dim : {8, 20, 64, 128})
      for (int64_t group : {1, 3}) {
        const AttentionCase c{131, dim == 64 ? 3 : 1, 2 * group, 2, dim, type};
        const double scale = 1 / std::sqrt(double(dim));
        Buffer qkv(type, c.seq * c.batch * c.wide(), 21), y(type, c.seq * c.batch * c.heads * dim);
        const int64_t maxSeq = 140, cacheSize = maxSeq * c.batch * c.kvHeads * dim;
        Buffer keys(type, cacheSize), values(type, cacheSize);
        const AttentionResult want = plainAttention(c, qkv.values(), nullptr, scale);
        const int64_t pieces[] = {1, 1, 3, 60, 1, 40, 2, 23};
        int64_t start = 0;
        for (int64_t seq : pieces) {
          Buffer part(type, seq * c.batch * c.wide()), out(type, seq * c.batch * c.heads * dim);
          for (int64_t i = 0; i < part.n; i++) part.set(i, qkv.get(start * c.batch * c.wide() + i));
          attention_cached(out.tensor(), keys.tensor(), values.tensor(), part.tensor(), seq, c.batch, c.heads,
                           c.kvHeads, dim, start, maxSeq, scale);
          for (int64_t i = 0; i < out.n; i++) y.set(start * c.batch * c.heads * dim + i, out.get(i));
          fact(out.intact() && part.intact() && keys.intact() && values.intact(), c.name("attention_cached guards"));
          start += seq;
        }
        close(y, want.y, toleranceOf(type), c.name("attention_cached"));
        bool threw = false;
        try {
          attention_cached(y.tensor(), keys.tensor(), values.tensor(), qkv.tensor(), c.seq, c.batch, c.heads, c.kvHeads,
                           dim, 10, maxSeq, scale);
        } catch (const std::exception&) { threw = true; }
        fact(threw, "attention_cached refuses positions beyond the cache");
      }
}

}  // namespace fp8lm::check
