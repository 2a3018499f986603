// The adamw kernel: which scales, how many passes. The arithmetic is in math.h (adamwUpdate), the loop in adamw_body.h.
//
// Every scaled state is stored just in time: its scale comes from the amax of its new values, which are known only once
// all have been computed. Computing them twice doubles the work, root and quotient included, so the passes are chosen:
//
//   nothing scaled        one pass.
//   p not scaled          only m and v need an amax: a cheap pass over m, v and the gradient, then one pass.
//   else, up to 8 M       guess that the scales stay as they are. Scales are powers of two, so most steps keep them. One pass
//                         writes in place, measures, and copies the old contents of p, m and v to an undo buffer. If a scale
//                         turns out to change, that of a moment has the moment stored once more from the undo buffer (no root,
//                         no quotient); for that of p the old contents go back and a whole pass runs with the right scales.
//   else                  two full passes: no undo buffer of that size.
//   an amax not finite    back to the old contents if need be, a slow pass that measures each state by itself, and one that
//                         counts what it clamps (not met in training: a non-finite gradient norm skips the step).
//
// All four give the same bits, for any number of threads and on every instruction set. A shard of a tensor whose scales hang
// on other ranks' shards too is measured in one call (phase 1) and written, with the amaxes of the whole, in the next.
#include "adamw.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "casts.h"
#include "ranges.h"

namespace fp8lm {

namespace {

constexpr int64_t kUndoElements = int64_t(8) << 20;
constexpr int64_t kCached = int64_t(16) << 20;  // bytes of an undo buffer, the same for every tensor, that a last-level cache keeps

bool scaled(const Tensor& t) { return t && t.dtype >= DType::f16 && t.scale; }

/// One state tensor with the scale it will have.
struct State {
  Tensor t;
  float scale = 1.0f;   // of the new contents
  uint32_t largest = 0;  // bits of the amax of the new values
  int64_t clamped = 0;
  explicit State(const Tensor& t_) : t(t_) { scale = scaled(t) ? previousScale(t) : 1.0f; }
  float amax() const { return floatOf(largest > 0x7f800000u ? 0x7f800000u : largest); }
  bool finite() const { return largest < 0x7f800000u; }
  void setAmax(float x) { largest = bitsOf(x) & 0x7fffffffu; }
  float rightScale() const { return scaled(t) ? scaleFor(amax(), maxOf(t.dtype), previousScale(t)) : 1.0f; }
  AdamWJob::State job(void* undo) const { return {t.data, t.dtype, t.dtype >= DType::f16 ? t.scaleInv() : 1.0f, scale, undo}; }
};

/// A buffer of this thread that outlives the call.
uint8_t* undoBytes(size_t n) {
  static thread_local HugeBuffer buffer;
  return buffer.atLeast(n);
}

float storedAmax(const State& p) {
  const float t = p.amax() * p.scale;
  switch (p.t.dtype) {
    case DType::bf16: return decodeBF16(encodeBF16(t));
    case DType::f16: return decodeF16(encodeF16(t, true)) * (1.0f / p.scale);
    case DType::e4m3: return decodeE4M3(encodeE4M3(t)) * (1.0f / p.scale);
    case DType::e5m2: return decodeE5M2(encodeE5M2(t)) * (1.0f / p.scale);
    default: return t;
  }
}

class Update {
 public:
  Update(const Tensor& w, const Tensor& master, const Tensor& grad, const Tensor& m, const Tensor& v, int64_t n, const math::AdamWStep& step)
      : w_(w), master_(master), grad_(grad), n_(n), step_(step), p_(master ? master : w), m_(m), v_(v) {
    wScale_ = scaled(w) ? previousScale(w) : 1.0f;
    forms_ = optimizerTable().formsFor(job(nullptr));
  }

  /// Writes the new values' amaxes and changes nothing else.
  void measure(float* amaxes) {
    const bool ofP = scaled(p_.t) || scaled(w_);
    if (ofP) pass(forms_.measure, nullptr);
    else if (scaled(m_.t) || scaled(v_.t)) pass(forms_.moments, nullptr);
    if (!finite()) pass(forms_.exact, nullptr);
    amaxes[0] = ofP ? p_.amax() : 0.0f;
    amaxes[1] = scaled(m_.t) ? m_.amax() : 0.0f;
    amaxes[2] = scaled(v_.t) ? v_.amax() : 0.0f;
  }

  /// With amaxes known beforehand, at least as large as this shard's own.
  void apply(const float* amaxes) {
    const auto know = [&] { p_.setAmax(amaxes[0]), m_.setAmax(amaxes[1]), v_.setAmax(amaxes[2]); };
    know();
    settle();
    pass(finite() ? forms_.apply : forms_.counted, nullptr);
    know();
    writeBlocks();
  }

  void run() {
    uint8_t* undo = nullptr;
    bool again = true;
    if (!scaled(p_.t)) {
      // The scale of w hangs on the amax of p, which takes the full arithmetic.
      if (master_ && scaled(w_)) pass(forms_.measure, nullptr);
      else if (scaled(m_.t) || scaled(v_.t)) pass(forms_.moments, nullptr);
      settle();
    } else if (n_ > kUndoElements) {
      pass(forms_.measure, nullptr);
      settle();
    } else {
      undo = undoBytes(size_t(padded() * bytesPerElement()));
      pass(forms_.update, undo);
      again = settle();
    }
    if (finite()) {
      if (again && undo && !pChanged_) pass(forms_.rewrite, undo);
      else if (again && undo) restore(undo), pass(forms_.apply, nullptr);
      else if (again) pass(forms_.apply, nullptr);
    } else {
      if (undo) restore(undo);
      pass(forms_.exact, nullptr);
      settle();
      pass(forms_.counted, nullptr);
    }
    writeBlocks();
  }

 private:
  /// n rounded up to whole groups of 64, so that each part of the undo buffer starts on a cache line.
  int64_t padded() const { return (n_ + kBlock - 1) / kBlock * kBlock; }
  int64_t bytesPerElement() const { return bytesOf(p_.t.dtype) + bytesOf(m_.t.dtype) + bytesOf(v_.t.dtype); }

  AdamWJob job(uint8_t* undo) const {
    uint8_t* const undoM = undo ? undo + padded() * bytesOf(p_.t.dtype) : nullptr;
    uint8_t* const undoV = undo ? undoM + padded() * bytesOf(m_.t.dtype) : nullptr;
    return {p_.job(undo), m_.job(undoM), v_.job(undoV), grad_.data, grad_.dtype, grad_.dtype >= DType::f16 ? grad_.scaleInv() : 1.0f,
            master_ ? w_.data : nullptr, w_.dtype, wScale_, 1.0f / p_.scale, step_, n_ * bytesPerElement() > kCached,
            mChanged_, vChanged_};
  }

  /// Measurements stay as they are in a pass of `apply` or `rewrite`, which make none.
  void pass(AdamWFn fn, uint8_t* undo) {
    const AdamWJob j = job(undo);
    const AdamWStats stats = mergeRanges<AdamWStats>(n_, [&](int64_t begin, int64_t end) { return fn(j, begin, end); }, kSerialMath);
    if (fn == forms_.apply || fn == forms_.rewrite) return;
    p_.largest = stats.p;
    m_.largest = stats.m;
    v_.largest = stats.v;
    p_.clamped = stats.clampedP;
    m_.clamped = stats.clampedM;
    v_.clamped = stats.clampedV;
  }

  /// Takes the scales that the measured amaxes ask for; true if any differs from the one in use.
  bool settle() {
    const auto take = [](State& s) {
      const float right = s.rightScale();
      const bool changed = right != s.scale;
      s.scale = right;
      return changed;
    };
    pChanged_ = take(p_), mChanged_ = take(m_), vChanged_ = take(v_);
    if (master_ && scaled(w_)) {
      const float right = scaleFor(storedAmax(p_), maxOf(w_.dtype), previousScale(w_));
      pChanged_ |= right != wScale_;
      wScale_ = right;
    }
    return pChanged_ || mChanged_ || vChanged_;
  }

  void restore(const uint8_t* undo) {
    for (State* s : {&p_, &m_, &v_}) {
      const int64_t b = bytesOf(s->t.dtype);
      forRanges(n_, [&](int, int64_t begin, int64_t end) {
        memcpy(s->t.as<uint8_t>() + begin * b, undo + begin * b, size_t((end - begin) * b));
      });
      undo += padded() * b;
    }
  }

  /// Nothing will be clamped: amaxes are finite, and every narrow tensor has a scale block.
  bool finite() const {
    for (const Tensor* t : {&p_.t, &m_.t, &v_.t, &w_})
      if (t->dtype >= DType::f16 && !t->scale) return false;
    const bool ofW = !(master_ && scaled(w_)) || p_.finite();
    return ofW && (!scaled(p_.t) || p_.finite()) && (!scaled(m_.t) || m_.finite()) && (!scaled(v_.t) || v_.finite());
  }

  void writeBlocks() {
    for (State* s : {&p_, &m_, &v_})
      if (scaled(s->t)) writeScale(s->t, s->scale, {s->amax(), s->clamped});
    if (!(master_ && scaled(w_))) return;
    if (p_.finite()) return writeScale(w_, wScale_, {storedAmax(p_), 0});
    // Measured: the master's own block records its values before they were clamped.
    float stored = 0.0f;
    const Tensor known{&stored, 1, DType::f32, nullptr};
    amax(known, master_, n_);
    quantize(w_, master_, Tensor{}, Tensor{}, known, n_, 0);
  }

  Tensor w_, master_, grad_;
  int64_t n_;
  math::AdamWStep step_;
  State p_, m_, v_;
  float wScale_ = 1.0f;
  bool pChanged_ = false, mChanged_ = false, vChanged_ = false;  // p: or the weight cast from it
  AdamWForms forms_{};
};

}  // namespace

void adamw(const Tensor& w, const Tensor& master, const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& control,
           const Tensor& amaxes, int64_t n, int64_t phase, double lr, double beta1, double beta2, double eps, double weight_decay) {
  if (phase > 2) throw std::invalid_argument("phase is " + std::to_string(phase) + "; expected 0, 1 or 2");
  if (phase > 0 && !amaxes) throw std::invalid_argument("phase " + std::to_string(phase) + " needs amaxes; expected f32 [3]");
  const float* const c = control.as<float>();
  if (c[2] != 0.0f) return;
  const double t = double(c[3]);
  const math::AdamWStep step{float(beta1),
                             float(beta2),
                             float(1.0 - beta1),
                             float(1.0 - beta2),
                             float(1.0 / std::sqrt(1.0 - std::pow(beta2, t))),
                             float(lr / (1.0 - std::pow(beta1, t))),
                             float(1.0 - lr * weight_decay),
                             float(eps),
                             c[0]};
  Update update(w, master, grad, m, v, n, step);
  if (phase == 1) update.measure(amaxes.as<float>());
  else if (phase == 2) update.apply(amaxes.as<float>());
  else update.run();
}

}  // namespace fp8lm
