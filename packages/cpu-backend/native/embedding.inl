// Embedding look-up and its scatter-add for one instruction set.
#include "embedding.h"

#include "chunk.h"

namespace fp8lm::FP8_VEC {
namespace {

void forward(const EmbeddingArgs& a, int64_t rowBegin, int64_t rowEnd) {
  float x[kChunk], place[kChunk];
  for (int64_t r = rowBegin; r < rowEnd; r++) {
    const int64_t row = a.tableRow(r), position = a.position + r / a.batch;
    for (int64_t c = 0; c < a.dim; c += kChunk) {
      const int64_t n = a.dim - c < kChunk ? a.dim - c : kChunk;
      if (row < 0) {
        memset(x, 0, sizeof x);
      } else {
        readChunk(x, *a.table, row * a.dim + c, n);
        if (*a.positions) {
          readChunk(place, *a.positions, position * a.dim + c, n);
          for (int64_t i = 0; i < n; i += kLanes) store(x + i, load(x + i) + load(place + i));
        }
      }
      writeChunk(*a.y, r * a.dim + c, n, x);
    }
  }
}

template <class T> void addRows(const EmbeddingArgs& a, int64_t columnBegin, int64_t columnEnd) {
  for (int64_t r = 0; r < a.rows; r++) {
    const int64_t row = a.tableRow(r);
    if (row < 0) continue;
    const T* dy = a.y->as<T>() + r * a.dim;
    float* table = a.table->as<float>() + row * a.dim;
    float* position = *a.positions ? a.positions->as<float>() + (a.position + r / a.batch) * a.dim : nullptr;
    forVectors(columnBegin, columnEnd, [&](int64_t c, int64_t n) FP8_LAMBDA {
      const F32 g = loadAt(dy, c, n);
      storeAt(table, c, loadAt(table, c, n) + g, n);
      if (position) storeAt(position, c, loadAt(position, c, n) + g, n);
    });
  }
}

void backward(const EmbeddingArgs& a, int64_t columnBegin, int64_t columnEnd) {
  if (a.y->dtype == DType::bf16) addRows<BF16>(a, columnBegin, columnEnd);
  else addRows<float>(a, columnBegin, columnEnd);
}

}  // namespace

const EmbeddingTable embedding = {forward, backward};

}  // namespace fp8lm::FP8_VEC
