// Checks of the elementwise group and the norms against float64 formulas.
#pragma once
#include "casts.h"

namespace check {

inline const DType acts[] = {DType::f32, DType::bf16};

/// Runs op(y, window) into each output form: f32, bf16 against float64 values; fp8 just in time and delayed, which must be
/// what quantize makes of the op's own f32 output, code for code.
inline void outputs(int64_t n, double floor, const std::vector<double>& want, const std::function<void(const Tensor&, const Tensor&)>& op) {
  forThreads([&] {
    Box exact(DType::f32, n);
    op(exact.t, Tensor{});
    near("y f32", exact, want, 3e-6, floor);
    Box half(DType::bf16, n), halfWant(DType::bf16, n);
    op(half.t, Tensor{});
    for (int64_t i = 0; i < n; i++) halfWant.setRaw(i, exact.raw(i));
    same("y bf16", half, halfWant);
    for (DType t : {DType::e4m3, DType::e5m2})
      for (float count : {-1.0f, 2.0f, 16.0f}) {
        float w[kWindowBlock] = {count, 16.0f, 0.0f}, w2[kWindowBlock] = {count, 16.0f, 0.0f};
        Box y(t, n), ref(t, n);
        y.setScale(2.0f), ref.setScale(2.0f);
        op(y.t, Tensor{count < 0 ? nullptr : w, kWindowBlock, DType::f32, nullptr});
        quantize(ref.t, exact.t, Tensor{count < 0 ? nullptr : w2, kWindowBlock, DType::f32, nullptr}, Tensor{}, Tensor{}, n, 0);
        same("y fp8", y, ref);
        if (memcmp(w, w2, sizeof w)) fail("window");
      }
  });
}

inline void checkElementwise() {
  Random r{11};
  const double k = std::sqrt(2 / M_PI);
  const auto geluOf = [&](double x) { return 0.5 * x * (1 + std::tanh(k * (x + 0.044715 * x * x * x))); };
  const auto geluSlope = [&](double x) {
    const double t = std::tanh(k * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
  };
  for (DType tx : acts)
    for (int64_t n : sizes) {
      Box x(tx, n, tx == DType::f32 ? 4 : 2);
      x.fillRandom(r, 2.0f);
      if (n > 4) x.setRaw(0, 60), x.setRaw(1, -60), x.setRaw(2, 1e-20f), x.setRaw(3, -9);
      context = std::string("gelu ") + names[int(tx)] + " n " + std::to_string(n);
      std::vector<double> want;
      for (float v : values(x)) want.push_back(geluOf(v));
      outputs(n, 0.1, want, [&](const Tensor& y, const Tensor& w) { gelu_forward(y, x.t, w, n); });
      for (DType ta : acts)
        for (DType ty : acts) {
          context = std::string("act backward ") + names[int(ty)] + names[int(ta)] + names[int(tx)] + " n " + std::to_string(n);
          Box dy(ta, n);
          dy.fillRandom(r);
          forThreads([&] {
            Box dx(ty, n), sum(ty, n), sumWant(ty, n), scaled(ty, n), scaledWant(ty, n);
            gelu_backward(dx.t, dy.t, x.t, n);
            std::vector<double> grad;
            for (int64_t i = 0; i < n; i++) grad.push_back(dy.value(i) * geluSlope(x.value(i)));
            near("gelu dx", dx, grad, rounding(ty), 1.0);
            add(sum.t, dy.t, x.t, n);
            scale(scaled.t, x.t, n, -0.3);
            for (int64_t i = 0; i < n; i++) sumWant.setRaw(i, dy.value(i) + x.value(i)), scaledWant.setRaw(i, x.value(i) * -0.3f);
            same("add", sum, sumWant);
            same("scale", scaled, scaledWant);
            if (ty != ta) return;
            Box inPlace(dy);
            add(inPlace.t, inPlace.t, x.t, n);
            same("add in place", inPlace, sumWant);
          });
        }
      const int64_t rows = n > 1000 ? n / 200 : 3, dim = n > 1000 ? 200 : n;
      context = std::string("swiglu ") + names[int(tx)] + " " + std::to_string(rows) + " x " + std::to_string(dim);
      Box x2(tx, rows * dim * 2);
      x2.fillRandom(r, 3.0f);
      if (dim > 2) x2.setRaw(0, -95), x2.setRaw(1, 95);
      want.clear();
      for (int64_t i = 0; i < rows * dim; i++) {
        const double g = x2.value(i / dim * 2 * dim + i % dim), up = x2.value(i / dim * 2 * dim + dim + i % dim);
        want.push_back(g / (1 + std::exp(-g)) * up);
      }
      outputs(rows * dim, 0.1, want, [&](const Tensor& y, const Tensor& w) { swiglu_forward(y, x2.t, w, rows, dim); });
      for (DType ta : acts)
        for (DType ty : acts) {
          Box dy(ta, rows * dim);
          dy.fillRandom(r);
          std::vector<double> grad(size_t(rows * dim * 2));
          for (int64_t i = 0; i < rows * dim; i++) {
            const size_t at = size_t(i / dim * 2 * dim + i % dim);
            const double g = x2.value(int64_t(at)), up = x2.value(int64_t(at) + dim), d = dy.value(i), s = 1 / (1 + std::exp(-g));
            grad[at] = d * up * s * (1 + g * (1 - s));
            grad[at + size_t(dim)] = d * g * s;
          }
          forThreads([&] {
            Box dx(ty, rows * dim * 2);
            swiglu_backward(dx.t, dy.t, x2.t, rows, dim);
            near("swiglu dx", dx, grad, rounding(ty), 1.0);
          });
        }
    }
}

inline void checkNorms() {
  Random r{13};
  for (const bool layer : {true, false})
    for (DType tx : acts)
      for (int64_t rows : {1, 3, 4, 37, 300})
        for (int64_t dim : {1, 16, 17, 70, 384, 1031}) {
          context = std::string(layer ? "layer" : "rms") + " norm " + names[int(tx)] + " " + std::to_string(rows) + " x " + std::to_string(dim);
          const int64_t n = rows * dim;
          Box x(tx, n), weight(DType::f32, dim), bias(DType::f32, dim), stats(DType::f32, rows * 2);
          x.fillRandom(r, 2.0f), weight.fillRandom(r), bias.fillRandom(r);
          const double eps = 1e-5;
          std::vector<double> y, xhat, inverse;
          for (int64_t k = 0; k < rows; k++) {
            double mean = 0, var = 0;
            for (int64_t c = 0; layer && c < dim; c++) mean += x.value(k * dim + c) / double(dim);
            for (int64_t c = 0; c < dim; c++) var += (x.value(k * dim + c) - mean) * (x.value(k * dim + c) - mean) / double(dim);
            inverse.push_back(1 / std::sqrt(var + eps));
            for (int64_t c = 0; c < dim; c++) {
              xhat.push_back((x.value(k * dim + c) - mean) * inverse.back());
              y.push_back(xhat.back() * weight.value(c) + (layer ? bias.value(c) : 0));
            }
          }
          const auto forward = [&](const Tensor& out, const Tensor& w) {
            if (layer) layer_norm_forward(out, stats.t, x.t, weight.t, bias.t, w, rows, dim, eps);
            else rms_norm_forward(out, stats.t, x.t, weight.t, w, rows, dim, eps);
          };
          // A row of one element has x - mean = 0 up to rounding times 1/sqrt(eps).
          outputs(n, dim == 1 ? 1000.0 : 10.0, y, forward);
          for (int mix = 0; mix < 4; mix++) {  // dy, residual, dx types; with and without residual
            const DType ty = mix & 1 ? DType::bf16 : tx, ta = mix & 2 ? DType::f32 : tx;
            Box dy(ta, n), residual(ty, n), dw0(DType::f32, dim), db0(DType::f32, dim);
            dy.fillRandom(r), residual.fillRandom(r), dw0.fillRandom(r), db0.fillRandom(r);
            std::vector<double> dx, dw, db;
            for (int64_t c = 0; c < dim; c++) {
              dw.push_back(dw0.value(c)), db.push_back(db0.value(c));
              for (int64_t k = 0; k < rows; k++) dw.back() += dy.value(k * dim + c) * xhat[size_t(k * dim + c)], db.back() += dy.value(k * dim + c);
            }
            for (int64_t k = 0; k < rows; k++) {
              double g1 = 0, g2 = 0;
              for (int64_t c = 0; c < dim; c++) {
                const double g = double(dy.value(k * dim + c)) * weight.value(c);
                g1 += g / double(dim), g2 += g * xhat[size_t(k * dim + c)] / double(dim);
              }
              for (int64_t c = 0; c < dim; c++) {
                const double g = double(dy.value(k * dim + c)) * weight.value(c);
                dx.push_back((mix == 3 ? 0 : residual.value(k * dim + c)) + (g - (layer ? g1 : 0) - xhat[size_t(k * dim + c)] * g2) * inverse[size_t(k)]);
              }
            }
            Bytes first;
            forThreads([&] {
              Box out(residual), gw(dw0), gb(db0);  // residual may be dx
              const Tensor res = mix == 3 ? Tensor{} : out.t;
              if (layer) layer_norm_backward(out.t, gw.t, mix == 2 ? Tensor{} : gb.t, dy.t, x.t, weight.t, stats.t, res, rows, dim);
              else rms_norm_backward(out.t, gw.t, dy.t, x.t, weight.t, stats.t, res, rows, dim);
              const double wide = dim == 1 ? 2000.0 : 10.0;
              near("dx", out, dx, ty == DType::f32 ? 1e-5 : rounding(ty), ty == DType::f32 ? wide : dim == 1 ? 20.0 : 1.0);
              near("dweight", gw, dw, 1e-5, wide);
              if (layer && mix != 2) near("dbias", gb, db, 1e-5, 10.0);
              if (first.empty()) first = gw.bytes;
              else if (first != gw.bytes) fail("dweight differs between thread counts");
            });
          }
        }
}

}  // namespace check
