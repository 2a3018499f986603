// Range functions of the embedding kernels (embedding.inl), one table an instruction set.
#pragma once
#include "table.h"
#include "tensor.h"

namespace fp8lm {

struct EmbeddingArgs {
  const Tensor *y, *tokens, *table, *positions;  // backward: y is dy, table and positions are their gradients
  int64_t rows, dim, vocab, vocabStart, batch, position;

  /// Row of the table for row r, or -1 if the token belongs to another rank's slice (or to none).
  int64_t tableRow(int64_t r) const {
    const int64_t token = int64_t(tokens->as<int32_t>()[r]) - vocabStart;
    return token >= 0 && token < vocab ? token : -1;
  }
};

struct EmbeddingTable {
  void (*forward)(const EmbeddingArgs&, int64_t rowBegin, int64_t rowEnd);
  /// Columns [columnBegin, columnEnd) of all rows, in row order: no two threads add to one place, one order for all
  /// sums.
  void (*backward)(const EmbeddingArgs&, int64_t columnBegin, int64_t columnEnd);
};

FP8_TABLE(EmbeddingTable, embedding)

}  // namespace fp8lm
