// Dropout and normal numbers for one instruction set: words from random_philox.h into a small buffer, then used up.
#include "random.h"

#include "chunk.h"
#include "random_philox.h"

namespace fp8lm::FP8_VEC {
namespace {

void dropout(const DropoutArgs& a, int64_t begin, int64_t end) {
  uint32_t words[kChunk + 4 + 4 * kPhiloxLanes + kLanes];  // a chunk may start and end inside a block
  float x[kChunk], residual[kChunk];
  const I32 sign(int32_t(0x80000000u)), threshold = I32(int32_t(uint32_t(a.threshold))) ^ sign;
  const F32 gain(a.gain), none(0.0f);
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t n = end - at < kChunk ? end - at : kChunk;
    const uint64_t element = a.offset + uint64_t(at);
    const int64_t skip = int64_t(element & 3);
    philoxBlocks(a.key, element >> 2, a.stream, (skip + n + 3) / 4, words);
    readChunk(x, *a.x, at, n);
    if (*a.residual) readChunk(residual, *a.residual, at, n);
    for (int64_t i = 0; i < n; i += kLanes) {
      I32 word;
      memcpy(&word, words + skip + i, sizeof word);
      // Unsigned comparison by flipping the sign bits of both sides.
      F32 kept = pick(threshold > (word ^ sign), none, load(x + i) * gain);
      if (*a.residual) kept = kept + load(residual + i);
      store(x + i, kept);
    }
    writeChunk(*a.y, at, n, x);
  }
}

void normal(const NormalArgs& a, int64_t begin, int64_t end) {
  constexpr int64_t group = 64;
  uint32_t words[4 * group];
  for (int64_t at = begin; at < end; at += group) {
    const int64_t n = end - at < group ? end - at : group;
    philoxBlocks(a.key, a.offset + uint64_t(at), a.stream, n, words);
    for (int64_t i = 0; i < n; i++) {
      PhiloxWords w;
      memcpy(&w, words + 4 * i, sizeof w);
      a.y[at + i] = philoxNormal(w) * a.std;
    }
  }
}

}  // namespace

const RandomTable random = {dropout, normal};

}  // namespace fp8lm::FP8_VEC
