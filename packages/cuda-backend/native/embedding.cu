// Embedding and rotary positions.
#include "../../fp8-kernels/native/kernels.gen.h"
#include "../../fp8-kernels/native/memory.h"
#include "embedding.h"
#include "words.h"

namespace fp8lm {

namespace {

constexpr int kColumns = 16;  // of a thread, in embeddingGroupsKernel

template <DType Y>
__global__ void __launch_bounds__(kThreads, 3) embeddingKernel(Ptr<Code<Y>> y, Ptr<const int32_t> tokens, AnyInput table, AnyInput positions, bool hasPositions, int64_t dim, int64_t vocab, int64_t vocabStart, int64_t batch, int64_t position) {
  beginKernel();
  const int64_t r = blockIdx.x, token = int64_t(tokens[r]) - vocabStart;
  const bool mine = token >= 0 && token < vocab;
  const float invT = table.inv(), invP = hasPositions ? positions.inv() : 1.0f;
  for (int64_t c = threadIdx.x; c < dim; c += blockDim.x) {
    float v = 0.0f;
    if (mine) {
      v = table.value(token * dim + c, invT);
      if (hasPositions) v = math::add(v, positions.value((position + r / batch) * dim + c, invP));
    }
    y[r * dim + c] = Form<Y>::encode(v);
  }
}

/// The same, 16 columns a thread, where table and positions have one dtype and all rows begin at multiples of 16 bytes.
template <DType Y, DType T>
__global__ void __launch_bounds__(kThreads, 3) embeddingGroupsKernel(Ptr<Code<Y>> y, Ptr<const int32_t> tokens, Ptr<const Code<T>> table, Ptr<const Code<T>> positions, Ptr<const float> blockT, Ptr<const float> blockP, int64_t rows, int dim, int64_t vocab, int64_t vocabStart, int64_t batch, int64_t position) {
  beginKernel();
  constexpr int G = kColumns;
  const int perRow = dim / G;
  const int64_t n = rows * perRow, stride = int64_t(gridDim.x) * blockDim.x;
  const float invT = blockT ? float(blockT[kScaleInv]) : 1.0f, invP = blockP ? float(blockP[kScaleInv]) : 1.0f;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const int64_t r = i / perRow, c = (i - r * perRow) * G, token = int64_t(tokens[r]) - vocabStart;
    Pack<Y, G> out;
    if (token < 0 || token >= vocab) {
#pragma unroll
      for (int k = 0; k < Pack<Y, G>::kCount; k++) out.w[k] = 0u;
    } else {
      Pack<T, G> row, at;
      row.load(table, token * dim + c);
      if (positions) at.load(positions, (position + r / batch) * dim + c);
#pragma unroll
      for (int q = 0; q < G / 4; q++) {
        float v[4], p[4];
        row.decode(q, v);
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] = blockT ? math::mul(v[e], invT) : v[e];
        if (positions) {
          at.decode(q, p);
#pragma unroll
          for (int e = 0; e < 4; e++) v[e] = math::add(v[e], blockP ? math::mul(p[e], invP) : p[e]);
        }
        out.encode(q, v);
      }
    }
    out.store(y, r * dim + c);
  }
}

/// cos and sin of every position and frequency, in float64 and rounded once.
__global__ void __launch_bounds__(kThreads, 3) ropeTableKernel(Ptr<float> table, int64_t steps, int64_t half, int64_t position, double theta) {
  beginKernel();
  const int64_t n = steps * half, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const double angle = double(position + i / half) * pow(theta, -double(i % half) / double(half));
    table[2 * i] = float(cos(angle));
    table[2 * i + 1] = float(sin(angle));
  }
}

/// The table of the last call, made anew where this one wants another: all layers of a step turn by the same angles.
Ptr<float> ropeTable(int64_t steps, int64_t half, int64_t position, double theta) {
  static void* data = nullptr;
  static int64_t room = 0, ofSteps = 0, ofHalf = 0, ofPosition = 0;
  static double ofTheta = 0.0;
  const int64_t count = 2 * steps * half;
  if (count > room) {
    memory::synchronize();  // the old one may be in use
    if (data) check(cudaFree(data), "cudaFree");
    data = nullptr, room = ofSteps = 0;
    check(cudaMalloc(&data, size_t(count) * sizeof(float)), "cudaMalloc");
    room = count;
  }
  const Ptr<float> table = rawPtr<float>(data, room, "cos and sin");
  if (steps == ofSteps && half == ofHalf && position == ofPosition && theta == ofTheta) return table;
  ofSteps = steps, ofHalf = half, ofPosition = position, ofTheta = theta;
  launch("rope", ropeTableKernel, dim3(blocksFor(steps * half, kThreads)), dim3(kThreads), table, steps, half, position, theta);
  return table;
}

constexpr int kPairs = 8;

/// Eight pairs (i, i + half) a thread, where rows and halves are whole vectors. In place only what is turned is written.
template <DType T>
__global__ void __launch_bounds__(kThreads, 3) ropePairsKernel(Output<T> y, Input<T> x, Ptr<const float> table, int64_t rows, int64_t batch, int turned, int heads, int half, float sign, bool inPlace) {
  beginKernel();
  const int perHead = half / kPairs, perRow = (inPlace ? turned : heads) * perHead;
  const int64_t n = rows * perRow, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; p < n; p += stride) {
    const int64_t r = p / perRow;
    const int q = int(p - r * perRow), head = q / perHead, i = (q - head * perHead) * kPairs;
    const int64_t at = (r * heads + head) * 2 * half + i;
    const auto rawA = x.template fetch<kPairs>(at, kPairs), rawB = x.template fetch<kPairs>(at + half, kPairs);
    if (head >= turned) {
      y.store(at, kPairs, rawA);
      y.store(at + half, kPairs, rawB);
      continue;
    }
    float a[kPairs], b[kPairs], angles[2 * kPairs];
    unpack(rawA, a);
    unpack(rawB, b);
#pragma unroll
    for (int k = 0; k < 2 * kPairs; k += 4) {
      const Vec<float> four = loadVec(table, 2 * (r / batch * half + i) + k);
#pragma unroll
      for (int w = 0; w < 4; w++) angles[k + w] = four.v[w];
    }
#pragma unroll
    for (int k = 0; k < kPairs; k++) {
      const float c = angles[2 * k], s = math::mul(angles[2 * k + 1], sign), a0 = a[k];
      a[k] = math::sub(math::mul(a0, c), math::mul(b[k], s));
      b[k] = math::add(math::mul(b[k], c), math::mul(a0, s));
    }
    y.store(at, kPairs, pack<T>(a));
    y.store(at + half, kPairs, pack<T>(b));
  }
}

template <DType Y, DType X>
__global__ void __launch_bounds__(kThreads, 3) ropeKernel(Ptr<Code<Y>> y, Ptr<const Code<X>> x, Ptr<const float> table, int64_t rows, int64_t batch, int64_t turned, int64_t width, int64_t half, float sign) {
  beginKernel();
  // Pairs (i, i + half) of the turned heads, then the values, which are copied in pairs too.
  const int64_t pairs = width / 2, n = rows * pairs, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; p < n; p += stride) {
    const int64_t r = p / pairs, q = p % pairs, head = q / half, i = q % half, at = r * width + head * 2 * half + i;
    float a = Form<X>::decode(x[at]), b = Form<X>::decode(x[at + half]);
    if (head < turned) {
      const float c = table[2 * (r / batch * half + i)], s = math::mul(table[2 * (r / batch * half + i) + 1], sign), a0 = a;
      a = math::sub(math::mul(a0, c), math::mul(b, s));
      b = math::add(math::mul(b, c), math::mul(a0, s));
    }
    y[at] = Form<Y>::encode(a);
    y[at + half] = Form<Y>::encode(b);
  }
}

}  // namespace

void embedding_forward(const Tensor& y, const Tensor& tokens, const Tensor& table, const Tensor& positions, int64_t rows, int64_t dim, int64_t vocab, int64_t vocab_start, int64_t batch, int64_t position, int64_t max_seq) {
  checkMultiple("rows", rows, "batch", batch);
  if (positions) checkPositions(position, rows / batch, max_seq);
  if (rows == 0 || dim == 0) return;
  const bool groups = dim % kColumns == 0 && dim <= INT32_MAX && isAligned(y) && isAligned(table) && (!positions || (isAligned(positions) && positions.dtype == table.dtype));
  withAct(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    if (groups) {
      return withAny(table.dtype, [&](auto t) {
        constexpr DType T = decltype(t)::value;
        launch("embedding_forward", embeddingGroupsKernel<Y, T>, dim3(blocksFor(rows * dim / kColumns, kThreads)), dim3(kThreads), ptr<Code<Y>>(y, "y"), ptr<const int32_t>(tokens, "tokens"),
               ptr<const Code<T>>(table, "table"), ptr<const Code<T>>(positions, "positions"), scalePtr(table, "table's scale block"),
               positions ? scalePtr(positions, "positions' scale block") : Ptr<float>(), rows, int(dim), vocab, vocab_start, batch, position);
      });
    }
    launch("embedding_forward", embeddingKernel<Y>, dim3(unsigned(rows)), dim3(threadsFor(dim)), ptr<Code<Y>>(y, "y"), ptr<const int32_t>(tokens, "tokens"),
           AnyInput(table, "table"), AnyInput(positions ? positions : table, "positions"), bool(positions), dim, vocab, vocab_start, batch, position);
  });
}

void rope(const Tensor& y, const Tensor& x, int64_t rows, int64_t batch, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t position, double theta, int64_t inverse) {
  checkMultiple("head_dim", head_dim, "2", 2);
  checkMultiple("rows", rows, "batch", batch);
  const int64_t half = head_dim / 2, steps = rows / batch, width = (heads + 2 * kv_heads) * head_dim;
  if (rows == 0 || width == 0) return;
  const Ptr<float> table = ropeTable(steps, half, position, theta);
  const float sign = inverse ? -1.0f : 1.0f;
  const int64_t turned = heads + kv_heads, all = heads + 2 * kv_heads;
  if (x.dtype == y.dtype && half % kPairs == 0 && isAligned(x) && isAligned(y) && width <= INT32_MAX) {
    return withAct(y.dtype, [&](auto d) {
      constexpr DType T = decltype(d)::value;
      launch("rope", ropePairsKernel<T>, dim3(blocksOf(ropePairsKernel<T>, rows * width / 2 / kPairs, kThreads, kThreads)), dim3(kThreads), output<T>(y, "y"), input<T>(x, "x"), table, rows, batch,
             int(turned), int(all), int(half), sign, x.data == y.data);
    });
  }
  withAct(y.dtype, [&](auto d) {
    withAct(x.dtype, [&](auto e) {
      constexpr DType Y = decltype(d)::value, X = decltype(e)::value;
      launch("rope", ropeKernel<Y, X>, dim3(blocksFor(rows * width / 2, kThreads)), dim3(kThreads), ptr<Code<Y>>(y, "y"), ptr<const Code<X>>(x, "x"), table, rows,
             batch, turned, width, half, sign);
    });
  });
}

}  // namespace fp8lm
