// Checks of the optimizer group. adamw against scalar code in two stages, exact amaxes first, bit for bit.
#pragma once
#include "casts.h"

namespace check {

struct Hyper {
  double lr = 3e-4, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1;
};

inline void storeJustInTime(Box& y, const std::vector<float>& x) {
  float a = 0;
  for (float v : x) a = std::isnan(v) || std::isinf(a) ? INFINITY : std::fmax(a, std::fabs(v));
  const float s = y.block[kScale];
  expectStore(y, x, y.t.scale ? scaleFor(a, maxOf(y.t.dtype), std::isfinite(s) && s > 0 ? s : 1.0f) : 1.0f);
}

inline void expectAdamW(Box& w, Box* master, const Box& grad, Box& m, Box& v, const float* control, const Hyper& h) {
  if (control[2] != 0) return;
  const double t = control[3];
  const float b1 = float(h.beta1), b2 = float(h.beta2), omb1 = float(1 - h.beta1), omb2 = float(1 - h.beta2);
  const float rc2 = float(1 / std::sqrt(1 - std::pow(h.beta2, t))), step = float(h.lr / (1 - std::pow(h.beta1, t)));
  const float decay = float(1 - h.lr * h.decay), eps = float(h.eps);
  Box& p = master ? *master : w;
  std::vector<float> m1, v1, p1;
  for (int64_t i = 0; i < w.t.size; i++) {
    const float g = grad.value(i) * control[0];
    m1.push_back(b1 * m.value(i) + omb1 * g);
    v1.push_back(b2 * v.value(i) + omb2 * (g * g));
    const float root = std::sqrt(v1.back()) * rc2;
    const float u = m1.back() / (root + eps);
    const float kept = p.value(i) * decay;
    p1.push_back(kept - step * u);
  }
  storeJustInTime(m, m1), storeJustInTime(v, v1), storeJustInTime(p, p1);
  if (master) storeJustInTime(w, values(*master));
}

inline void checkAdamW() {
  Random r{17};
  const DType n0 = DType::i32;  // "no master"
  std::vector<std::vector<DType>> mixes = {
      {DType::f32, n0, DType::f32, DType::f32, DType::f32},    {DType::bf16, DType::f32, DType::f32, DType::f32, DType::f32},
      {DType::f32, n0, DType::f32, DType::e4m3, DType::f16},   {DType::f16, n0, DType::e4m3, DType::f32, DType::f32},
      {DType::f16, n0, DType::e4m3, DType::e4m3, DType::f16},  {DType::e4m3, DType::f16, DType::e4m3, DType::e4m3, DType::f16},
      {DType::bf16, n0, DType::bf16, DType::bf16, DType::e5m2}, {DType::e4m3, DType::f32, DType::e5m2, DType::e4m3, DType::e4m3},
  };
  for (int k = 0; k < 60; k++) {
    std::vector<DType> mix;
    for (int i = 0; i < 5; i++) mix.push_back(allTypes[r.next() % 5]);
    if (r.next() & 1) mix[1] = n0;
    mixes.push_back(mix);
  }
  for (size_t k = 0; k < mixes.size(); k++)
    for (int64_t n : {1, 17, 512, 1000, 5003, 20011})
      for (int variant = 0; variant < 7; variant++) {  // 0 guess right later, 1 clipped, 2 inf, 3 NaN, 4 tiny, 5 skip, 6 p overflows
        const auto& mix = mixes[k];
        if (k >= 8 && (n == 512 || n == 20011)) continue;
        context = "adamw";
        for (DType t : mix) context += std::string(" ") + (t == n0 ? "-" : names[int(t)]);
        context += " n " + std::to_string(n) + " variant " + std::to_string(variant);
        Box w(mix[0], n), master(mix[1] == n0 ? DType::f32 : mix[1], n), grad(mix[2], n), m(mix[3], n), v(mix[4], n);
        Box* const p = mix[1] == n0 ? nullptr : &master;
        w.fillRandom(r, 0.05f), master.fillRandom(r, 0.05f), grad.fillRandom(r, variant == 4 ? 1e-18f : 1e-3f), m.fillRandom(r, 1e-4f), v.fillRandom(r, 1e-7f);
        if (mix[2] == DType::e4m3 && variant < 2) {
          grad.setScale(grad.block[kScale] * 1.00069f);
          m.setScale(m.block[kScale] * 0.5f);
        }
        for (int64_t i = 0; i < n; i++) v.setRaw(i, std::fabs(v.raw(i)));
        if (variant == 2) grad.setRaw(n / 3, INFINITY), grad.setRaw(n / 2, grad.t.dtype == DType::f32 ? 3e38f : 1.0f);
        if (variant == 2) m.setRaw(n / 4, 1e38f), (p ? master : w).setRaw(n / 5, INFINITY);
        if (variant == 3) grad.setRaw(n / 3, NAN);
        float control[4] = {variant == 1 ? 0.123f : 1.0f, 1, variant == 5 ? 1.0f : 0.0f, float(variant == 0 ? 1 : 100)};
        Hyper h;
        if (variant == 6) {
          Box& top = p ? master : w;
          h.decay = -10000;  // a factor of 4
          if (top.t.scale) top.setScale(0x1p-111f);
          top.setRaw(n / 2, top.t.scale ? maxOf(top.t.dtype) : 3e38f);
        }
        const auto carry = [](Box& to, const Box& from) { to.bytes = from.bytes, memcpy(to.block, from.block, sizeof to.block), to.t.data = to.bytes.data() + Box::kGuard; };
        for (int round = 0; round < 2; round++) {
          Box w1(w), master1(master), m1(m), v1(v);
          expectAdamW(w1, p ? &master1 : nullptr, grad, m1, v1, control, h);
          forThreads([&] {
            Box w2(w), master2(master), m2(m), v2(v);
            const auto step = [&](float* amaxes, int64_t phase) {
              adamw(w2.t, p ? master2.t : Tensor{}, grad.t, m2.t, v2.t, Tensor{control, 4, DType::f32, nullptr}, Tensor{amaxes, 3, DType::f32, nullptr}, n, phase,
                    h.lr, h.beta1, h.beta2, h.eps, h.decay);
            };
            const auto compare = [&](const Box& ofW, const Box& ofMaster, const Box& ofM, const Box& ofV) {
              same("m", m2, ofM), same("v", v2, ofV), same("w", w2, ofW);
              if (p) same("master", master2, ofMaster);
            };
            step(nullptr, 0);
            compare(w1, master1, m1, v1);
            carry(w2, w), carry(master2, master), carry(m2, m), carry(v2, v);
            float amaxes[3] = {7, 7, 7};
            step(amaxes, 1);
            compare(w, master, m, v);
            step(amaxes, 2);
            compare(w1, master1, m1, v1);
          });
          carry(w, w1), carry(master, master1), carry(m, m1), carry(v, v1);
          control[3]++;
        }
      }
}

inline void checkOptimizer() {
  Random r{19};
  for (DType t : allTypes)
    for (int64_t n : {1, 17, 1000, 65535, 65536, 200003}) {
      context = std::string("sums ") + names[int(t)] + " n " + std::to_string(n);
      Box x(t, n);
      x.fillRandom(r, 5.0f);
      double squares = 0, total = 0;
      for (int64_t i = 0; i < n; i++) squares += double(x.value(i)) * x.value(i), total += x.value(i);
      std::vector<float> seen;
      forThreads([&] {
        float y = 0, z = 0;
        sum_squares(Tensor{&y, 1, DType::f32, nullptr}, x.t, n);
        if (!(std::fabs(y - squares) <= 3e-7 * squares)) fail("sum_squares");
        if (t == DType::f32) sum(Tensor{&z, 1, DType::f32, nullptr}, x.t, n, 0.5);
        if (t == DType::f32 && !(std::fabs(z - 0.5 * total) <= 3e-7 * std::fabs(total) + 1e-6)) fail("sum");
        seen.push_back(y), seen.push_back(z);
      });
      if (seen[0] != seen[2] || seen[1] != seen[3]) fail("sums differ between thread counts");
      printf("%s", t == DType::f32 && n == 200003 ? (std::to_string(bitsOf(seen[0])) + " is the same line on every instruction set\n").c_str() : "");
    }
  context = "clip_control";
  float sums[3] = {9, 16, 0}, c[4] = {0, 0, 0, 5};
  const Tensor control{c, 4, DType::f32, nullptr}, three{sums, 3, DType::f32, nullptr};
  clip_control(control, three, 3, 1.0);
  if (c[0] != float(1.0 / (5.0 + 1e-6)) || c[1] != 5 || c[2] != 0 || c[3] != 6) fail("clipped");
  clip_control(control, three, 3, 0.0);
  if (c[0] != 1 || c[3] != 7) fail("off");
  sums[2] = NAN;
  clip_control(control, three, 3, 1.0);
  if (c[2] != 1 || c[3] != 7) fail("skip");
  context = "window_update";
  float w[kWindowBlock] = {}, now = 0;
  for (int i = 0; i < 40; i++) {
    w[kWindowAmax] = i == 30 ? INFINITY : float(i % 7) + 0.1f;
    window_update(Tensor{w, kWindowBlock, DType::f32, nullptr}, 1, 448.0);
    if (w[kWindowAmax] != 0) fail("amax is not cleared");
    now = i < 30 ? float(i + 1) : float(i - 30);
    if (w[kWindowCount] != std::fmin(now, 16.0f)) fail("count");
    float largest = 0;
    for (int k = i < 15 ? 0 : i - 15; k <= i; k++) largest = std::fmax(largest, k == 30 ? 0.0f : float(k % 7) + 0.1f);
    if (w[kWindowScale] != scaleFor(largest, 448.0f, 1.0f)) fail("scale");
  }
  checkAdamW();
}

}  // namespace check
