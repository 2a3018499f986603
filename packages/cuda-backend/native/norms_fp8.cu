// Layer norm from bf16 to FP8, forward, from compute capability 9.0 on. norms.cu has all others, and the pass that measures before
// this one; RMS norm, with half the weights and one sum less, is no slower there. Written so that the memory is waited for and not
// instructions:
//
//   - A thread has the same columns of every row: weight and bias stay in its registers for the whole launch.
//   - A round is two rows of each team. Rows come by asynchronous copies a round ahead, each thread's own to itself, and are
//     read twice from shared memory.
//   - The tensor cores sum. Products of bf16 are exact: A times ones has the sums of A's rows, and A times A transposed has the
//     sums of their squares on its diagonal. Five products for 16 x 16 words, which nothing unpacks.
//   - Sum and sum of squares are taken in one pass, about 0, and shared with the team at one barrier a round. Where a mean is far
//     from 0 that loses digits: then the round's squares are summed anew, about the mean.
//   - Whether a value saturates is asked once a round, of the largest; only then are those that do counted.
#include "norms.h"

namespace fp8lm {

namespace {

constexpr int kHeldWarps = 16, kRows = 2, kStages = 2;
static_assert(kHeldWarps <= kMostTeamWarps && kRows == 2, "each half of a warp adds up what the warps say of one row");

/// Where rows lie in shared memory, in words: each warp has room of its own, for its part of each stage's rows.
template <int V> struct HeldRoom {
  static constexpr int kVector = kWarp * 4, kRow = V * kVector, kStage = kRows * kRow, kOfWarp = kStages * kStage;
};

struct HeldPlan : RowPlan {
  int step;  // rows of a round of all blocks
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FP8_HELD_NORM 1
#else
#define FP8_HELD_NORM 0  // never called there
#endif

/// Sums of a warp's words by tensor core products. Lanes 4 i to 4 i + 3 all get the i-th of eight parts of the sum; of the square sum each
/// lane gets a part of its own.
template <int V> __device__ __forceinline__ void sumWords(const uint32_t (&v)[V][4], unsigned lane, float& sum, float& square) {
  constexpr unsigned kOnes[2] = {0x3f803f80u, 0x3f803f80u};  // bf16
  float s[4] = {};
#pragma unroll
  for (int q = 0; q < V; q++) mmaBf16(s, v[q], kOnes);
  sum = s[0] + s[2];
  // Words times themselves are on the diagonals of d's upper half and of e's lower half; all else is not looked at.
  float d[4] = {}, e[4] = {};
#pragma unroll
  for (int q = 0; q < V; q++) {
    mmaBf16Short(d, v[q], v[q][0]);
    mmaBf16Short(e, v[q], v[q][1]);
    mmaBf16Short(d, v[q] + 2, v[q][2]);
    mmaBf16Short(e, v[q] + 2, v[q][3]);
  }
  const float even = d[0] + e[2], odd = d[1] + e[3];
  square = lane % 4 == lane / 8 ? (lane & 4 ? odd : even) : 0.0f;
}

/// One pass over the rows.
/// @tparam V vectors of a row that a thread has: 4 halve the blocks that a multiprocessor holds
template <bool biased, DType Y, int V>
__global__ void __launch_bounds__(kHeldWarps * kWarp, V > 2 ? 1 : 2) heldNormKernel(Output<Y> y, Ptr<float> stats, Ptr<const uint16_t> x, Ptr<const float> weight, Ptr<const float> bias, ScaleJob job, int rows, int dim, float eps, HeldPlan plan) {
  beginKernel();
#if FP8_HELD_NORM
  using Room = HeldRoom<V>;
  constexpr int kNext = kWarp * kWide, kOfWarp = V * kNext;  // columns to a thread's next vector, and of a warp
  constexpr int kOfStage = kRows * kHeldWarps * 2;
  // What the warps tell each other: for each stage, row and warp two sums. One more stage is for a second go. After that the count of
  // what saturates, of each warp its own, for which there is no register.
  constexpr int kCounted = (kStages + 1) * kOfStage;
  FP8_SHARED(float, parts, kCounted + kHeldWarps * 2);
  FP8_DYNAMIC_SHARED(uint32_t, room);
  const int team = warpOf() / plan.warps;
  const int column = (warpOf() - team * plan.warps) * kOfWarp + laneOf() * kWide;
  const SharedAt<uint32_t> mine = sharedAt(room, warpOf() * Room::kOfWarp + laneOf() * 4);
  const auto warp = [&] { return int(unsigned(column) / kOfWarp); };  // of the team
  const auto has = [&](int q) { return column + q * kNext < dim; };
  const auto ask = [&](int stage, int r) {
#pragma unroll
    for (int j = 0; j < kRows; j++) {
#pragma unroll
      for (int q = 0; q < V; q++)
        if (r + j < rows && has(q)) copyAsync(mine, stage * Room::kStage + j * Room::kRow + q * Room::kVector, x, int64_t(r + j) * dim + column + q * kNext);
    }
    endCopies();
  };
  int first = int(blockIdx.x) * plan.teams * kRows, r = first + team * kRows;
  ask(0, r);
  float w[V][kWide], b[V][kWide];
#pragma unroll
  for (int q = 0; q < V; q++) {
#pragma unroll
    for (int k = 0; k < kWide; k++) w[q][k] = b[q][k] = 0.0f;
    if (!has(q)) continue;
    loadWide(weight, column + q * kNext, w[q]);
    if constexpr (biased) loadWide(bias, column + q * kNext, b[q]);
  }
  const float scale = chooseScale(job);
  Seen seen;
  // The upper half of a warp works for the second row, and the lower one for the first.
  const unsigned lane = threadIdx.x % unsigned(kWarp), other = lane % 16;
  const bool upper = lane >= 16, tells = other == 0, hears = int(other) < plan.warps;
  const SharedAt<float> heard = sharedAt(parts, ((upper ? kHeldWarps : 0) + team * plan.warps + int(other)) * 2);
  if (lane == 0) storeShared(heard, kCounted + warp() * 2, 0.0f);
  for (int stage = 0; first < rows; first += plan.step, r += plan.step, stage ^= 1) {
    const auto read = [&](int j, int q, uint32_t (&v)[4]) { loadShared(mine, stage * Room::kStage + j * Room::kRow + q * Room::kVector, v); };
    waitCopies<0>();
    ask(stage ^ 1, r + plan.step);
    // Of a row that is not there: whatever is in its place, and nothing comes of it.
    float sums[kRows] = {}, squares[kRows];
#pragma unroll
    for (int j = 0; j < kRows; j++) {
      uint32_t v[V][4];
#pragma unroll
      for (int q = 0; q < V; q++) {
#pragma unroll
        for (int k = 0; k < 4; k++) v[q][k] = 0u;
        if (has(q)) read(j, q, v[q]);
      }
      sumWords(v, lane, sums[j], squares[j]);
    }
    float square = (upper ? squares[1] : squares[0]) + __shfl_xor_sync(kAllLanes, upper ? squares[0] : squares[1], 16);
#pragma unroll
    for (int k = 8; k > 0; k /= 2) square += __shfl_xor_sync(kAllLanes, square, k);
    float sum = (upper ? sums[1] : sums[0]) + __shfl_xor_sync(kAllLanes, upper ? sums[0] : sums[1], 16);
#pragma unroll
    for (int k = 8; k > 2; k /= 2) sum += __shfl_xor_sync(kAllLanes, sum, k);
    // A warp asks for a second go where the mean's square is most of the squares' mean, and their difference three bits short. If none
    // of its warps does, the team need not either.
    constexpr float kFar = 0.875f;
    if (tells) storeShared(heard, stage * kOfStage + warp() * 2, {square, sum});
    const int columns = dim - int(readAnew(column) / kOfWarp * kOfWarp);
    const bool anew = __syncthreads_or(r + int(upper) < rows && !(sum * sum <= kFar * float(columns < kOfWarp ? columns : kOfWarp) * square));
    float theirs[2] = {};
    if (hears) loadShared(heard, stage * kOfStage, theirs);
    square = theirs[0], sum = theirs[1];
#pragma unroll
    for (int k = 8; k > 0; k /= 2) {
      square += __shfl_xor_sync(kAllLanes, square, k);
      sum += __shfl_xor_sync(kAllLanes, sum, k);
    }
    const float mean = sum * plan.share;
    float variance = math::mulAdd(-mean, mean, square * plan.share);
    if (__builtin_expect(anew, false)) {
      float about[kRows] = {};
#pragma unroll
      for (int j = 0; j < kRows; j++) {
        const float m = __shfl_sync(kAllLanes, mean, j * 16);
#pragma unroll
        for (int q = 0; q < V; q++) {
          if (!has(q)) continue;
          Packed<DType::bf16, kWide> p;
          read(j, q, p.w);
          float v[kWide];
          unpack(p, v);
#pragma unroll
          for (int k = 0; k < kWide; k++) about[j] = math::mulAdd(v[k] - m, v[k] - m, about[j]);
        }
        about[j] = warpSum(about[j]);
      }
      if (tells) storeShared(heard, kStages * kOfStage + warp() * 2, upper ? about[1] : about[0]);
      __syncthreads();
      variance = hears ? loadShared(heard, kStages * kOfStage) : 0.0f;
#pragma unroll
      for (int k = 8; k > 0; k /= 2) variance += __shfl_xor_sync(kAllLanes, variance, k);
      variance *= plan.share;
    }
    const float inv = nearlyRecip(nearlySqrt(variance + eps)), shift = -mean * inv;
    if (warp() == 0 && tells && r + int(upper) < rows) storeWords(stats, 2 * (r + int(upper)), {bitsOf(mean), bitsOf(inv)});
    const auto each = [&](auto&& use) {
#pragma unroll
      for (int j = 0; j < kRows; j++) {
        const float invJ = __shfl_sync(kAllLanes, inv, j * 16), shiftJ = __shfl_sync(kAllLanes, shift, j * 16);
        if (r + j >= rows) continue;
#pragma unroll
        for (int q = 0; q < V; q++) {
          Packed<DType::bf16, kWide> p{};
          if (has(q)) read(j, q, p.w);
          float v[kWide];
          unpack(p, v);
#pragma unroll
          for (int k = 0; k < kWide; k++) {
            v[k] = math::mulAdd(v[k], invJ, shiftJ);
            v[k] = biased ? math::mulAdd(v[k], w[q][k], b[q][k]) : math::mul(v[k], w[q][k]);
          }
          use(j, q, v);
        }
      }
    };
    float largest = 0.0f;
    each([&](int j, int q, float (&v)[kWide]) {
#pragma unroll
      for (int k = 0; k < kWide; k++) largest = maxMagnitude(largest, v[k]), v[k] = math::mul(v[k], scale);
      const auto codes = pack<Y>(v);
      if (has(q)) storeWords(y.data + int64_t(r + j) * dim, column + q * kNext, codes.w);
    });
    if (magnitude(largest) > seen.largest) seen.largest = magnitude(largest);
    if (__builtin_expect(__any_sync(kAllLanes, !(math::mul(largest, scale) <= job.max)), false)) {
      unsigned saturated = 0;
      each([&](int, int, float (&v)[kWide]) {
#pragma unroll
        for (int k = 0; k < kWide; k++) saturated += fabsf(math::mul(v[k], scale)) > job.max ? 1u : 0u;
      });
      saturated = warpSum(saturated);
      if (lane == 0) storeShared(heard, kCounted + warp() * 2, floatOf(bitsOf(loadShared(heard, kCounted + warp() * 2)) + saturated));
    }
  }
  if (lane == 0) seen.saturated = bitsOf(loadShared(heard, kCounted + warp() * 2));
  if (lastToReport(job, seen)) finish(job, scale);
#endif
}

template <DType Y, int V>
bool runHeld(const char* name, const ScaleJob& job, const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t rows, int64_t dim, double eps) {
  const RowPlan rowsOf = rowPlan(dim, V, kHeldWarps, kHeldWarps);
  if (!rowsOf.warps) return false;
  HeldPlan plan{rowsOf, 0};
  const size_t bytes = size_t(plan.warps * plan.teams * HeldRoom<V>::kOfWarp) * sizeof(uint32_t);
  const auto go = [&](auto kernel) {
    const unsigned resident = residentBlocks(kernel, plan.threads(), bytes);
    if (!resident) return false;
    const int64_t needed = (rows + plan.teams * kRows - 1) / (plan.teams * kRows);
    const unsigned blocks = needed < 1 ? 1u : needed < int64_t(resident) ? unsigned(needed) : resident;
    plan.step = int(blocks) * plan.teams * kRows;
    launchShared(name, kernel, dim3(blocks), dim3(plan.threads()), bytes, output<Y>(y, "y"), ptr<float>(stats, "stats"), ptr<const uint16_t>(x, "x"), ptr<const float>(weight, "weight"), ptr<const float>(bias, "bias"), job, int(rows), int(dim), float(eps), plan);
    return true;
  };
  return bias ? go(&heldNormKernel<true, Y, V>) : go(&heldNormKernel<false, Y, V>);
}

}  // namespace

bool layerNormToFp8(const char* name, const ScaleJob& job, const Tensor& y, const Tensor& stats, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t rows, int64_t dim, double eps) {
  if (device().major < 9 || x.dtype != DType::bf16 || rows >= kMostRows) return false;
  for (const Tensor* t : {&y, &x, &weight, &bias, &stats})
    if (!isAligned(*t)) return false;
  bool done = false;
  withFp8(y.dtype, [&](auto d) {
    constexpr DType Y = decltype(d)::value;
    done = runHeld<Y, 2>(name, job, y, stats, x, weight, bias, rows, dim, eps) || runHeld<Y, 4>(name, job, y, stats, x, weight, bias, rows, dim, eps);
  });
  return done;
}

}  // namespace fp8lm
