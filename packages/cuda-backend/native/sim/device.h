// device.h on the simulated device: CUDA's words in terms of sim.h.
#pragma once
#include <cmath>
#include <cstring>
#include <tuple>

#include "../../../fp8-kernels/native/float8.h"
#include "../timing.h"
#include "access.h"
#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx ::fp8lm::sim::threadIndex
#define blockIdx ::fp8lm::sim::blockIndex
#define blockDim ::fp8lm::sim::blockSize
#define gridDim ::fp8lm::sim::gridSize
#define __syncthreads() ::fp8lm::sim::barrier(__FILE__, __LINE__)
#define __syncthreads_or(p) ::fp8lm::sim::barrierOr(p, __FILE__, __LINE__)
#define __syncwarp() ::fp8lm::sim::exchange(0xffffffffu, nullptr, 0, __LINE__)
#define __shfl_sync(mask, v, from) ::fp8lm::sim::shuffle(mask, v, from, __LINE__)
#define __shfl_xor_sync(mask, v, d) ::fp8lm::sim::shuffle(mask, v, ::fp8lm::sim::lane() ^ (d), __LINE__)
#define __shfl_down_sync(mask, v, d) ::fp8lm::sim::shuffle(mask, v, ::fp8lm::sim::lane() + (d), __LINE__)
#define __ballot_sync(mask, p) ::fp8lm::sim::ballot(mask, p, __LINE__)
#define __any_sync(mask, p) (::fp8lm::sim::ballot(mask, p, __LINE__) != 0u)
#define __threadfence() ((void)0)
#define __popc(v) __builtin_popcount(v)

#define FP8_SHARED(T, name, N)          \
  static const char name##Key = 0;      \
  const ::fp8lm::Shared<T> name(static_cast<T*>(::fp8lm::sim::shared(&name##Key, sizeof(T) * (N))), 0, N, "shared " #name)

#define FP8_DYNAMIC_SHARED(T, name) FP8_SHARED(T, name, int64_t(::fp8lm::sim::dynamicBytes / sizeof(T)))

namespace fp8lm {

using dim3 = sim::Dim3;

namespace sim {

template <class T> T shuffle(unsigned mask, T v, int from, int line) {
  const unsigned char* const all = exchange(mask, &v, sizeof v, line);
  if (from < 0 || from >= 32) return v;
  if (!(mask >> from & 1u)) fail("a shuffle reads lane " + std::to_string(from) + ", which is not in its mask");
  T out;
  memcpy(&out, all + 64 * from, sizeof out);
  return out;
}

inline unsigned ballot(unsigned mask, bool p, int line) {
  const unsigned char mine = p;
  const unsigned char* const all = exchange(mask, &mine, 1, line);
  unsigned out = 0;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1u) out |= unsigned(all[64 * l] != 0) << l;
  return out;
}

}  // namespace sim

template <class T> inline Ptr<T> ptr(const Tensor& t, const char* name) {
  return t.data ? Ptr<T>(static_cast<T*>(t.data), 0, t.size * bytesOf(t.dtype) / int64_t(sizeof(T)), name) : Ptr<T>();
}
inline Ptr<float> scalePtr(const Tensor& t, const char* name) {
  return t.scale ? Ptr<float>(t.scale, 0, kScaleBlock, name) : Ptr<float>();
}
template <class T> inline Ptr<T> rawPtr(void* data, int64_t count, const char* name) {
  return data ? Ptr<T>(static_cast<T*>(data), 0, count, name) : Ptr<T>();
}

inline void beginKernel() {}

inline float fastExp2(float x) { return exp2f(x); }
inline float nearlySqrt(float x) { return sqrtf(x); }
inline float nearlyRecip(float x) { return 1.0f / x; }
inline float fusedMulAdd(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float sqrtInRange(float x) { return __builtin_sqrtf(x); }
inline float divInRange(float a, float b) { return a / b; }
inline float maxMagnitude(float a, float x) { return a != a ? a : x != x || fabsf(x) > a ? fabsf(x) : a; }
inline uint32_t maxMagnitudes(uint32_t a, uint32_t x) {
  const auto larger = [](float m, float v) {
    const float y = maxMagnitude(m, v);
    return y != y ? 0x7fffu : bitsOf(y) >> 16;
  };
  return larger(floatOf(a << 16), floatOf(x << 16)) | larger(floatOf(a & 0xffff0000u), floatOf(x & 0xffff0000u)) << 16;
}
inline uint32_t bf16Pair(float low, float high) { return uint32_t(encodeBF16(low)) | uint32_t(encodeBF16(high)) << 16; }
inline void decodeHalves(uint32_t w, float* v) {
  v[0] = decodeF16(uint16_t(w));
  v[1] = decodeF16(uint16_t(w >> 16));
}
inline uint32_t halfPair(float low, float high) { return uint32_t(encodeF16(low, true)) | uint32_t(encodeF16(high, true)) << 16; }
template <bool e4m3> void decodeFp8Pair(uint32_t w, float* v) {
  for (int k = 0; k < 2; k++) v[k] = e4m3 ? decodeE4M3(uint8_t(w >> 8 * k)) : decodeE5M2(uint8_t(w >> 8 * k));
}
template <bool e4m3> uint32_t fp8Pair(float low, float high) {
  return e4m3 ? uint32_t(encodeE4M3(low)) | uint32_t(encodeE4M3(high)) << 8 : uint32_t(encodeE5M2(low)) | uint32_t(encodeE5M2(high)) << 8;
}
inline uint32_t bytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t y = 0;
  for (int k = 0; k < 4; k++) y |= uint32_t(bytes >> 8 * (selector >> 4 * k & 7u) & 0xffu) << 8 * k;
  return y;
}

namespace sim {

/// The tensor core product in scalars, of K columns of a: each lane takes what it needs of the other lanes' fragments.
template <int K> void mma(float d[4], const unsigned* a, const unsigned* b) {
  constexpr int kOfA = K / 4, kOfB = K / 8;  // words of a lane
  unsigned mine[kOfA + kOfB];
  memcpy(mine, a, 4 * kOfA);
  memcpy(mine + kOfA, b, 4 * kOfB);
  const unsigned char* const all = exchange(0xffffffffu, mine, sizeof mine, K);
  const auto word = [&](int lane, int k) {
    unsigned u;
    memcpy(&u, all + 64 * lane + 4 * k, 4);
    return u;
  };
  const auto value = [](unsigned u, int half) {
    const unsigned bits = half ? u & 0xffff0000u : u << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
  };
  const int group = lane() / 4, pair = lane() % 4;
  for (int k = 0; k < K; k++) {
    // Column k of a lies in lane 4 row + (k % 8) / 2, register (row >= 8) + 2 (k >= 8), half k % 2; b likewise.
    const int within = (k % 8) / 2, high = k / 8, half = k % 2;
    const float a0 = value(word(4 * group + within, 2 * high), half), a1 = value(word(4 * group + within, 1 + 2 * high), half);
    const float b0 = value(word(4 * (2 * pair) + within, kOfA + high), half), b1 = value(word(4 * (2 * pair + 1) + within, kOfA + high), half);
    d[0] += a0 * b0;
    d[1] += a0 * b1;
    d[2] += a1 * b0;
    d[3] += a1 * b1;
  }
}

}  // namespace sim

inline void mmaBf16(float d[4], const unsigned a[4], const unsigned b[2]) { sim::mma<16>(d, a, b); }
inline void mmaBf16Short(float d[4], const unsigned a[2], unsigned b) { sim::mma<8>(d, a, &b); }

template <class T, int W> void storeShared(const Shared<T>& p, int i, const T (&w)[W]) {
  p.at(i, W, 4 * W);
  for (int k = 0; k < W; k++) p[i + k] = w[k];
}

template <class T> using SharedAt = Shared<T>;
template <class T> SharedAt<T> sharedAt(const Shared<T>& array, int i) { return array + i; }
inline float loadShared(const SharedAt<float>& p, int i) { return p[i]; }
inline void storeShared(const SharedAt<float>& p, int i, float v) { p[i] = v; }
template <class T, int W> void loadShared(const SharedAt<T>& p, int i, T (&w)[W]) {
  p.at(i, W, 4 * W);
  for (int k = 0; k < W; k++) w[k] = p[i + k];
}

inline unsigned readAnew(unsigned x) { return x; }

/// The words are poison until the copy is done, which is as late as can be: when the thread waits for it.
template <class P> void copyAsync(const SharedAt<uint32_t>& to, int i, const P& from, int64_t k) {
  storeShared(to, i, {~0u, ~0u, ~0u, ~0u});
  from.at(k, 16 / int64_t(sizeof(typename P::Bare)), 16);
  sim::copyLater([=] {
    uint32_t w[4];
    loadWords(from, k, w);
    storeShared(to, i, w);
  });
}
inline void endCopies() { sim::endCopies(); }
template <int N> void waitCopies() { sim::waitCopies(N); }

/// What ldmatrix gives each lane, read word by word at the places where other lanes point.
inline void loadMatrices(unsigned r[4], const Shared<uint32_t>& tile, int at) {
  tile.at(at, 4, 16);
  const unsigned char* const all = sim::exchange(0xffffffffu, &at, sizeof at, 0);
  for (int m = 0; m < 4; m++) {
    int row;
    memcpy(&row, all + 64 * (8 * m + sim::lane() / 4), sizeof row);
    r[m] = tile[row + sim::lane() % 4];
  }
}
inline void loadTransposed(unsigned r[4], const Shared<uint32_t>& tile, int at) {
  tile.at(at, 4, 16);
  const unsigned char* const all = sim::exchange(0xffffffffu, &at, sizeof at, 0);
  const int column = sim::lane() / 4;
  for (int m = 0; m < 4; m++) {
    r[m] = 0;
    for (int k = 0; k < 2; k++) {
      int row;
      memcpy(&row, all + 64 * (8 * m + 2 * (sim::lane() % 4) + k), sizeof row);
      r[m] |= (uint32_t(tile[row + column / 2]) >> (column % 2 ? 16 : 0) & 0xffffu) << 16 * k;
    }
  }
}

unsigned deviceBlocks();
/// Few and odd, so that most kernels go round their loop.
template <class... P> unsigned residentBlocks(void (*)(P...), unsigned, size_t sharedBytes = 0) { return sharedBytes > (200 << 10) ? 0 : 3; }
void beforeLaunch(uintptr_t what);
[[noreturn]] void throwCuda(cudaError_t error, const char* what);
inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throwCuda(error, what);
}

template <class... P, class... A>
void launchShared(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t sharedBytes, A&&... args) {
  beforeLaunch(reinterpret_cast<uintptr_t>(kernel));
  const Timed timed(timesLaunches() ? name : "");
  simLaunch(name, grid, block, [=, call = std::make_tuple(P(args)...)] {
    sim::dynamicBytes = sharedBytes;
    std::apply(kernel, call);
  });
}
template <class... P, class... A> void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, A&&... args) {
  launchShared(name, kernel, grid, block, 0, std::forward<A>(args)...);
}

}  // namespace fp8lm
