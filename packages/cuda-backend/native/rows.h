// Kernels that work on whole rows (norms): a team of warps has a row and reads it once, as vectors of 8 elements that stay in
// registers; the next row is on its way meanwhile. A block has one team, or several of few warps.
#pragma once
#include "context.h"
#include "formats.h"

namespace fp8lm {

constexpr int kWide = 8, kMostTeamWarps = 16;
constexpr int64_t kMostRows = int64_t(1) << 30;  // so that the next row of any block is an int

/// How a kernel whose threads hold `vectors` vectors of a row is laid out. Kernels get it whole, so that none of it takes a
/// register: it is read where arguments lie.
struct RowPlan {
  int warps;    // of a team; 0: the row is too long, or not made of whole vectors
  int teams;    // of a block
  float share;  // of one element in the mean of a row
  unsigned threads() const { return unsigned(warps * teams * kWarp); }
};
inline RowPlan rowPlan(int64_t dim, int vectors, int blockWarps, int mostWarps) {
  const int64_t perWarp = int64_t(kWarp) * kWide * vectors, warps = (dim + perWarp - 1) / perWarp;
  if (dim % kWide || warps < 1 || warps > mostWarps) return {0, 0, 0.0f};
  return {int(warps), warps >= blockWarps ? 1 : int(blockWarps / warps), 1.0f / float(dim)};
}

/// A thread's place: its team in the block, its number in the team, and the first column of its vectors.
struct Team {
  int warps, index, teams, thread;
  __device__ __forceinline__ explicit Team(const RowPlan& plan)
      : warps(plan.warps), index(warpOf() / plan.warps), teams(plan.teams), thread(int(threadIdx.x) - index * plan.warps * kWarp) {}
  __device__ __forceinline__ int column(int vector) const { return (vector * warps * kWarp + thread) * kWide; }
};

/// unpack, by way of a zero that the compiler cannot know: else it sees that an earlier pass has unpacked the same words, keeps
/// all those floats, twice as many registers as the words, and spills. Not an instruction more.
template <DType D, int N> __device__ __forceinline__ void unpackAnew(const Packed<D, N>& p, uint32_t zero, float (&v)[N]) {
  if constexpr (D == DType::bf16) {
#pragma unroll
    for (int k = 0; k < N; k += 2) v[k] = floatOf((p.w[k / 2] << 16) + zero), v[k + 1] = floatOf((p.w[k / 2] & 0xffff0000u) | zero);
  } else {
    (void)zero;
    unpack(p, v);
  }
}

/// Sums of N values over a team, in all of its threads. All threads of the block call it as often. `parts` has two halves of
/// kMostTeamWarps N words, used in turn, so that one barrier is enough; `half` is the first word of the next one.
/// @tparam lean lane and warp are computed so cheaply that the compiler does it anew each time and holds no register for them:
/// some ten instructions for two or three registers
template <bool lean, int N> __device__ __forceinline__ void teamSums(const Team& team, Shared<float> parts, int& half, float (&v)[N]) {
#pragma unroll
  for (int k = 0; k < N; k++) v[k] = warpSum(v[k]);
  if (team.warps == 1) return;
  const int base = half;
  half ^= kMostTeamWarps * N;
  const int lane = lean ? int(threadIdx.x % unsigned(kWarp)) : laneOf(), warp = lean ? int(threadIdx.x / unsigned(kWarp)) : warpOf();
  if (lane == 0) {
#pragma unroll
    for (int k = 0; k < N; k++) parts[base + warp * N + k] = v[k];
  }
  __syncthreads();
  const int other = lane % kMostTeamWarps;
#pragma unroll
  for (int k = 0; k < N; k++) v[k] = 0.0f;
  if (other < team.warps) {
    const int from = base + (team.index * team.warps + other) * N;
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = parts[from + k];
  }
#pragma unroll
  for (int k = 0; k < N; k++) {
#pragma unroll
    for (int d = kMostTeamWarps / 2; d > 0; d /= 2) v[k] += __shfl_xor_sync(kAllLanes, v[k], d);
  }
}

/// The vectors of row r that a thread has; zeros beyond the row's end or the last row.
template <DType D, int V> struct RowVectors {
  Packed<D, kWide> vector[V];
  __device__ __forceinline__ void fetch(const Input<D>& x, const Team& team, int r, int rows, int dim) {
    const Ptr<const Code<D>> row = x.data + int64_t(r) * dim;
#pragma unroll
    for (int q = 0; q < V; q++) {
      const int c = team.column(q);
      if (r < rows && c < dim) {
        loadWords(row, c, vector[q].w);
      } else {
#pragma unroll
        for (int k = 0; k < Packed<D, kWide>::kWords; k++) vector[q].w[k] = 0u;
      }
    }
  }
};

/// Eight float32 from element c on.
__device__ __forceinline__ void loadWide(Ptr<const float> p, int c, float (&v)[kWide]) {
  Packed<DType::f32, kWide> w;
  loadWords(p, c, w.w);
  unpack(w, v);
}

}  // namespace fp8lm
