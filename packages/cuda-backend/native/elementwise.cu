// add, scale, gelu, swiglu, dropout.
#include <stdexcept>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "../../fp8-kernels/native/philox.h"
#include "map.h"

namespace fp8lm {

namespace {

template <DType A, DType B> struct Sum : NearestEven {
  Input<A> a;
  Input<B> b;
  Sum(const Tensor& a_, const Tensor& b_) : a(input<A>(a_, "a")), b(input<B>(b_, "b")) {}
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const {
    float w[kGroup];
    a.load(i, count, 1.0f, v);
    b.load(i, count, 1.0f, w);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::add(v[k], w[k]);
  }
};

template <DType X> struct Scaled : Plain<X> {
  float alpha;
  Scaled(const Tensor& x, double a) : Plain<X>(x), alpha(float(a)) {}
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const {
    Plain<X>::load(i, count, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::mul(v[k], alpha);
  }
};

template <DType X> struct Gelu : Plain<X> {
  using Plain<X>::Plain;
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const {
    Plain<X>::load(i, count, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::gelu(v[k]);
  }
};

template <DType D, DType X> struct GeluGradient : NearestEven {
  Input<D> dy;
  Input<X> x;
  GeluGradient(const Tensor& dy_, const Tensor& x_) : dy(input<D>(dy_, "dy")), x(input<X>(x_, "x")) {}
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const {
    float w[kGroup];
    dy.load(i, count, 1.0f, v);
    x.load(i, count, 1.0f, w);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::mul(v[k], math::geluDerivative(w[k]));
  }
};

/// silu(gate) * up; a row of x is gate | up. A group that lies in one row, at a whole group of it, is read as vectors.
template <DType X> struct Swiglu : NearestEven {
  Input<X> x;
  int64_t dim;
  bool whole;  // no group crosses a row's end
  Swiglu(const Tensor& x_, int64_t dim_) : x(input<X>(x_, "x")), dim(dim_), whole(dim_ % kGroup == 0) {}
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const {
    if (whole) {
      float up[kGroup];
      const int64_t r = i / dim, at = i + r * dim;
      x.load(at, count, 1.0f, v);
      x.load(at + dim, count, 1.0f, up);
#pragma unroll
      for (int k = 0; k < kGroup; k++) v[k] = math::mul(math::silu(v[k]), up[k]);
      return;
    }
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      const int64_t at = i + k + (i + k) / dim * dim;
      v[k] = k < count ? math::mul(math::silu(x.one(at, 1.0f)), x.one(at + dim, 1.0f)) : 0.0f;
    }
  }
};

template <DType DX, DType DY, DType X>
__global__ void __launch_bounds__(kThreads, 3) swigluGradientKernel(Output<DX> dx, Input<DY> dy, Input<X> x, int64_t rows, int64_t dim) {
  const int64_t n = rows * dim, stride = int64_t(gridDim.x) * blockDim.x * kGroup;
  const bool whole = dim % kGroup == 0;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kGroup; i < n; i += stride) {
    const int count = n - i < kGroup ? int(n - i) : kGroup;
    const int64_t first = i + i / dim * dim;
    float gate[kGroup], up[kGroup], d[kGroup];
    dy.load(i, count, 1.0f, d);
    if (whole) {
      x.load(first, count, 1.0f, gate);
      x.load(first + dim, count, 1.0f, up);
    } else {
#pragma unroll
      for (int k = 0; k < kGroup; k++) {
        const int64_t at = i + k + (i + k) / dim * dim;
        gate[k] = k < count ? x.one(at, 1.0f) : 0.0f;
        up[k] = k < count ? x.one(at + dim, 1.0f) : 0.0f;
      }
    }
    Code<DX> dGate[kGroup], dUp[kGroup];
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      const float s = math::sigmoid(gate[k]);
      dGate[k] = Form<DX>::encode(math::mul(math::mul(d[k], up[k]), math::siluDerivative(gate[k], s)));
      dUp[k] = Form<DX>::encode(math::mul(d[k], math::mul(gate[k], s)));
    }
    if (whole) {
      dx.store(first, count, dGate);
      dx.store(first + dim, count, dUp);
    } else {
#pragma unroll
      for (int k = 0; k < kGroup; k++) {
        const int64_t at = i + k + (i + k) / dim * dim;
        if (k < count) dx.data[at] = dGate[k], dx.data[at + dim] = dUp[k];
      }
    }
  }
}

/// residual + mask * x / (1 - rate); the word of element e is word e % 4 of block e / 4 of the stream.
template <DType X, DType R> struct Dropped : NearestEven {
  Input<X> x;
  Input<R> residual;
  PhiloxKey key;
  uint64_t stream, threshold;
  int64_t offset;
  float gain;
  Dropped(const Tensor& x_, const Tensor& r, int64_t seed, int64_t stream_, int64_t offset_, double rate)
      : x(input<X>(x_, "x")), residual(input<R>(r, "residual")), key(philoxKey(uint64_t(seed))), stream(uint64_t(stream_)),
        threshold(dropoutThreshold(rate)), offset(offset_), gain(float(1.0 / (1.0 - rate))) {}
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void load(int64_t i, int count, float v[kGroup]) const {
    float r[kGroup];
    x.load(i, count, 1.0f, v);
    if (residual.data) residual.load(i, count, 1.0f, r);
    PhiloxWords words{};
    uint64_t loaded = ~uint64_t(0);
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      const uint64_t e = uint64_t(offset + i + k);
      if (e >> 2 != loaded) {
        loaded = e >> 2;
        words = philox(key, loaded, stream);
      }
      const int at = int(e & 3);
      const uint32_t word = at == 0 ? words.w[0] : at == 1 ? words.w[1] : at == 2 ? words.w[2] : words.w[3];
      v[k] = word >= threshold ? math::mul(v[k], gain) : 0.0f;
      if (residual.data) v[k] = math::add(v[k], r[k]);
    }
  }
};

}  // namespace

void add(const Tensor& y, const Tensor& a, const Tensor& b, int64_t n) {
  withAct(a.dtype, [&](auto d) {
    withAct(b.dtype, [&](auto e) { mapAct("add", y, Sum<decltype(d)::value, decltype(e)::value>(a, b), n); });
  });
}

void scale(const Tensor& y, const Tensor& x, int64_t n, double alpha) {
  withAct(x.dtype, [&](auto d) { mapAct("scale", y, Scaled<decltype(d)::value>(x, alpha), n); });
}

void gelu_forward(const Tensor& y, const Tensor& x, const Tensor& window, int64_t n) {
  withAct(x.dtype, [&](auto d) { mapActOrFp8("gelu_forward", y, Gelu<decltype(d)::value>(x, "x"), window, n); });
}

void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t n) {
  withAct(dy.dtype, [&](auto d) {
    withAct(x.dtype, [&](auto e) { mapAct("gelu_backward", dx, GeluGradient<decltype(d)::value, decltype(e)::value>(dy, x), n); });
  });
}

void swiglu_forward(const Tensor& y, const Tensor& x, const Tensor& window, int64_t rows, int64_t dim) {
  withAct(x.dtype, [&](auto d) { mapActOrFp8("swiglu_forward", y, Swiglu<decltype(d)::value>(x, dim), window, rows * dim); });
}

void swiglu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, int64_t rows, int64_t dim) {
  withAct(dx.dtype, [&](auto c) {
    withAct(dy.dtype, [&](auto d) {
      withAct(x.dtype, [&](auto e) {
        constexpr DType DX = decltype(c)::value, DY = decltype(d)::value, X = decltype(e)::value;
        launch("swiglu_backward", swigluGradientKernel<DX, DY, X>, groupBlocks(rows * dim), dim3(kThreads), output<DX>(dx, "dx"),
               input<DY>(dy, "dy"), input<X>(x, "x"), rows, dim);
      });
    });
  });
}

void dropout(const Tensor& y, const Tensor& x, const Tensor& residual, int64_t n, double rate, int64_t seed, int64_t stream, int64_t offset) {
  if (!(rate >= 0.0 && rate < 1.0)) throw std::runtime_error("rate is " + std::to_string(rate) + "; expected 0 <= rate < 1");
  withAct(x.dtype, [&](auto d) {
    withAct(residual ? residual.dtype : DType::f32, [&](auto e) {
      mapAct("dropout", y, Dropped<decltype(d)::value, decltype(e)::value>(x, residual, seed, stream, offset, rate), n);
    });
  });
}

}  // namespace fp8lm
