// How a kernel chooses the scale of what it writes, on the device: from the amax window once it is warm, else just in time
// from an amax that the caller knows, that the input's block records, or that a pass before has measured. No value of it
// passes through the host. The last block to finish writes the tensor's scale block and the window.
#pragma once
#include "context.h"
#include "formats.h"

namespace fp8lm {

struct ScaleJob {
  Ptr<float> block, window;
  Ptr<const float> mu, known, source;
  Ptr<unsigned> words;
  float max = 1.0f;
  bool keep = false;  // the present scale stays
  int slot = 0;       // which words: several scaled outputs of one kernel
};

inline ScaleJob scaleJob(const Tensor& y) {
  ScaleJob j{};
  j.block = scalePtr(y, "y's scale block");
  j.words = words();
  j.max = maxOf(y.dtype);
  return j;
}

__device__ __forceinline__ float previousScale(float s) { return s > 0.0f && bitsOf(s) < 0x7f800000u ? s : 1.0f; }
/// Bits of |x| as atomicMax orders them; any NaN is above infinity, and amaxOf makes infinity of it.
__device__ __forceinline__ unsigned magnitude(float x) { return bitsOf(x) & 0x7fffffffu; }
__device__ __forceinline__ float amaxOf(unsigned bits) { return floatOf(bits > 0x7f800000u ? 0x7f800000u : bits); }

__device__ __forceinline__ bool isWarm(const ScaleJob& j) { return j.window && j.window[kWindowCount] >= float(kWindow); }

/// True if the scale waits for a measured amax.
__device__ __forceinline__ bool needsMeasure(const ScaleJob& j) {
  return j.block && !j.keep && !isWarm(j) && !j.known && !(j.source && j.source[kAmax] > 0.0f);
}

/// How many of a measuring pass's blocks to launch: few, as mostly they find the window warm and have
/// nothing to do, and then their start is all that this costs.
inline unsigned measureBlocks(unsigned blocks) { return blocks < deviceBlocks() / 4 ? blocks : deviceBlocks() / 4; }

__device__ __forceinline__ float chooseScale(const ScaleJob& j) {
  if (!j.block) return 1.0f;
  const float present = j.block[kScale];
  if (j.keep) return present;
  // All asked for at once: a kernel waits for one answer of the memory and not for three.
  const float mu = j.mu ? float(j.mu[0]) : 1.0f, count = j.window ? float(j.window[kWindowCount]) : 0.0f, ofWindow = j.window ? float(j.window[kWindowScale]) : 0.0f;
  const float known = j.known ? float(j.known[0]) : 0.0f, ofSource = j.source ? float(j.source[kAmax]) : 0.0f;
  const unsigned measured = j.words[kMeasured + j.slot];
  if (count >= float(kWindow)) return math::mul(ofWindow, mu);
  const float amax = j.known ? known : ofSource > 0.0f ? ofSource : amaxOf(measured);
  const float previous = j.window ? (ofWindow > 0.0f ? ofWindow : 1.0f) : previousScale(present);
  return math::mul(scaleFor(amax, j.max, previous), mu);
}

/// What one thread saw of the values it stored.
struct Seen {
  unsigned largest = 0, saturated = 0;
  __device__ __forceinline__ void add(float value, float stored, float max) {
    const unsigned m = magnitude(value);
    if (m > largest) largest = m;
    saturated += fabsf(stored) > max ? 1u : 0u;
  }
  /// The same for N values, of which t are stored: `t[k] = v[k] * scale`. Where the largest is in range, all are.
  template <int N> __device__ __forceinline__ void add(const float (&v)[N], const float (&t)[N], float scale, float max) {
    float m = 0.0f;
#pragma unroll
    for (int k = 0; k < N; k++) m = maxMagnitude(m, v[k]);
    const unsigned bits = magnitude(m);
    if (bits > largest) largest = bits;
    if (__builtin_expect(math::mul(m, scale) <= max, true)) return;
#pragma unroll
    for (int k = 0; k < N; k++) saturated += fabsf(t[k]) > max ? 1u : 0u;
  }
};

/// Adds what the block saw to the words. All threads call it.
__device__ __forceinline__ void report(const ScaleJob& j, Seen seen) {
  FP8_SHARED(unsigned, largest, kWarp);
  FP8_SHARED(unsigned, saturated, kWarp);
  seen = {warpMax(seen.largest), warpSum(seen.saturated)};
  __syncthreads();  // the last call's reader is done
  if (laneOf() == 0) largest[warpOf()] = seen.largest, saturated[warpOf()] = seen.saturated;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < int(blockDim.x) / kWarp; w++) {
    const unsigned other = largest[w];
    seen = {other > seen.largest ? other : seen.largest, seen.saturated + saturated[w]};
  }
  if (seen.largest) atomicMaxAt(j.words, kAmaxWord + j.slot, seen.largest);
  if (seen.saturated) atomicAddAt(j.words, kSaturatedWord + j.slot, seen.saturated);
}

/// The same at the end of a kernel that has nothing else to pass from block to block; true in one thread of the last block.
__device__ __forceinline__ bool lastToReport(const ScaleJob& j, Seen seen) {
  report(j, seen);
  return lastThread(j.words + kTicket);
}

/// Writes block and window from the words, and clears those. One thread of the last block calls it.
/// @param whole the amax to record instead, of the tensor that this one is a shard of; negative: none
__device__ __forceinline__ void finish(const ScaleJob& j, float scale, float whole = -1.0f) {
  const float seen = amaxOf(fromOtherBlocks(j.words, kAmaxWord + j.slot)), amax = whole >= 0.0f ? whole : seen;
  const unsigned saturated = fromOtherBlocks(j.words, kSaturatedWord + j.slot);
  j.words[kMeasured + j.slot] = 0u;
  j.words[kAmaxWord + j.slot] = 0u;
  j.words[kSaturatedWord + j.slot] = 0u;
  if (j.window && amax > j.window[kWindowAmax]) j.window[kWindowAmax] = amax;
  if (!j.block) return;
  j.block[kScale] = scale;
  j.block[kScaleInv] = math::div(1.0f, scale);
  j.block[kAmax] = amax;
  j.block[kSaturated] = float(saturated);
}

}  // namespace fp8lm
