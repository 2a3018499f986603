// add, scale, gelu, swiglu, dropout.
#include <stdexcept>

#include "../../fp8-kernels/native/kernels.gen.h"
#include "../../fp8-kernels/native/philox.h"
#include "activations.h"
#include "map.h"

namespace fp8lm {

namespace {

template <DType A, DType B> struct Sum : Both<A, B> {
  Sum(const Tensor& a, const Tensor& b) : Both<A, B>(a, "a", b, "b") {}
  __device__ __forceinline__ void values(const typename Both<A, B>::Raw& raw, int64_t, float (&v)[kGroup]) const {
    float w[kGroup];
    unpack(raw.a, v);
    unpack(raw.b, w);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::add(v[k], w[k]);
  }
};

template <DType X> struct Scaled : Plain<X> {
  float alpha;
  Scaled(const Tensor& x, double a) : Plain<X>(x), alpha(float(a)) {}
  __device__ __forceinline__ void values(const Group<X>& raw, int64_t, float (&v)[kGroup]) const {
    unpack(raw, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::mul(v[k], alpha);
  }
};

template <DType X> struct Gelu : Plain<X> {
  using Plain<X>::Plain;
  __device__ __forceinline__ void values(const Group<X>& raw, int64_t, float (&v)[kGroup]) const {
    unpack(raw, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = geluFast(v[k]);
  }
};

template <DType D, DType X> struct GeluGradient : Both<D, X> {
  GeluGradient(const Tensor& dy, const Tensor& x) : Both<D, X>(dy, "dy", x, "x") {}
  __device__ __forceinline__ void values(const typename Both<D, X>::Raw& raw, int64_t, float (&v)[kGroup]) const {
    float w[kGroup];
    unpack(raw.a, v);
    unpack(raw.b, w);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::mul(v[k], geluDerivativeFast(w[k]));
  }
};

/// Rows of x are gate | up, each of `dim`. A group that lies in one row is read as vectors.
template <DType X> struct GateAndUp {
  struct Raw {
    Group<X> gate, up;
  };
  Input<X> x;
  int64_t dim;
  bool whole;  // no group crosses a row's end
  GateAndUp(const Tensor& x_, int64_t dim_) : x(input<X>(x_, "x")), dim(dim_), whole(dim_ % kGroup == 0) {}
  /// Where gate of element i of the output lies; up is `dim` further.
  __device__ __forceinline__ int64_t at(int64_t i) const {
    return i + (i < (int64_t(1) << 32) && dim < (int64_t(1) << 32) ? int64_t(uint32_t(i) / uint32_t(dim)) : i / dim) * dim;
  }
  __device__ __forceinline__ Raw fetch(int64_t i, int count) const {
    if (whole) {
      const int64_t first = at(i);
      return {x.fetch(first, count), x.fetch(first + dim, count)};
    }
    constexpr int per = 4 / int(sizeof(Code<X>));
    Raw raw{};
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      if (k >= count) continue;
      const int64_t a = at(i + k);
      raw.gate.w[k / per] |= bitsOfCode(x.data[a]) << (k % per * 32 / per);
      raw.up.w[k / per] |= bitsOfCode(x.data[a + dim]) << (k % per * 32 / per);
    }
    return raw;
  }
};

/// silu(gate) * up.
template <DType X> struct Swiglu : NearestEven {
  using Raw = typename GateAndUp<X>::Raw;
  GateAndUp<X> x;
  Swiglu(const Tensor& x_, int64_t dim) : x(x_, dim) {}
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ Raw fetch(int64_t i, int count) const { return x.fetch(i, count); }
  __device__ __forceinline__ void values(const Raw& raw, int64_t, float (&v)[kGroup]) const {
    float up[kGroup];
    unpack(raw.gate, v);
    unpack(raw.up, up);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] = math::mul(siluFast(v[k]), up[k]);
  }
};

template <DType DX, DType DY, DType X>
__global__ void __launch_bounds__(kThreads, 3) swigluGradientKernel(Output<DX> dx, Input<DY> dy, GateAndUp<X> x, int64_t n) {
  beginKernel();
  const int64_t stride = int64_t(gridDim.x) * blockDim.x * kGroup;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kGroup; i < n; i += stride) {
    const int count = groupCount(i, n);
    const Group<DY> rawD = dy.fetch(i, count);
    const typename GateAndUp<X>::Raw raw = x.fetch(i, count);
    float gate[kGroup], up[kGroup], d[kGroup];
    unpack(rawD, d);
    unpack(raw.gate, gate);
    unpack(raw.up, up);
#pragma unroll
    for (int k = 0; k < kGroup; k++) {
      const float s = sigmoidFast(gate[k]), dUp = math::mul(d[k], math::mul(gate[k], s));
      gate[k] = math::mul(math::mul(d[k], up[k]), math::siluDerivative(gate[k], s));
      up[k] = dUp;
    }
    const Group<DX> dGate = pack<DX>(gate), dUp = pack<DX>(up);
    if (x.whole) {
      const int64_t first = x.at(i);
      dx.store(first, count, dGate);
      dx.store(first + x.dim, count, dUp);
    } else {
      constexpr int per = 4 / int(sizeof(Code<DX>));
#pragma unroll
      for (int k = 0; k < kGroup; k++) {
        if (k >= count) continue;
        const int64_t a = x.at(i + k);
        dx.data[a] = codeOf<Code<DX>>(dGate.w[k / per] >> (k % per * 32 / per));
        dx.data[a + x.dim] = codeOf<Code<DX>>(dUp.w[k / per] >> (k % per * 32 / per));
      }
    }
  }
}

/// residual + mask * x / (1 - rate); the word of element e is word e % 4 of block e / 4 of the stream.
template <DType X, DType R> struct Dropped : NearestEven {
  struct Raw {
    Group<X> x;
    Group<R> residual;
  };
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
  __device__ __forceinline__ Raw fetch(int64_t i, int count) const {
    Raw raw{};
    raw.x = x.fetch(i, count);
    if (residual.data) raw.residual = residual.fetch(i, count);
    return raw;
  }
  __device__ __forceinline__ void values(const Raw& raw, int64_t i, float (&v)[kGroup]) const {
    float r[kGroup];
    unpack(raw.x, v);
    unpack(raw.residual, r);
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
        launchGroups("swiglu_backward", swigluGradientKernel<DX, DY, X>, rows * dim, output<DX>(dx, "dx"), input<DY>(dy, "dy"), GateAndUp<X>(x, dim));
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
