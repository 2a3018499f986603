// embedding_forward by rows, embedding_backward by columns. Tokens are data that no binding can check: one outside
// [vocab_start, vocab_start + vocab) reads and writes no table row.
#include "embedding.h"

#include <stdexcept>
#include <string>

#include "kernels.gen.h"
#include "ranges.h"

namespace fp8lm {
namespace {

void check(const EmbeddingArgs& a, int64_t maxSeq) {
  if (a.batch < 1 || a.rows % a.batch != 0)
    throw std::invalid_argument("rows is " + std::to_string(a.rows) + "; expected a multiple of batch (" +
                                std::to_string(a.batch) + ")");
  if (*a.positions && (a.position < 0 || a.position + a.rows / a.batch > maxSeq))
    throw std::invalid_argument("positions " + std::to_string(a.position) + " to " +
                                std::to_string(a.position + a.rows / a.batch) + " do not fit max_seq " +
                                std::to_string(maxSeq));
}

}  // namespace

void embedding_forward(const Tensor& y, const Tensor& tokens, const Tensor& table, const Tensor& positions,
                       int64_t rows, int64_t dim, int64_t vocab, int64_t vocab_start, int64_t batch, int64_t position,
                       int64_t max_seq) {
  const EmbeddingArgs args{&y, &tokens, &table, &positions, rows, dim, vocab, vocab_start, batch, position};
  check(args, max_seq);
  const EmbeddingTable& kernels = embeddingTable();
  forRows(rows, dim, [&](int, int64_t begin, int64_t end) { kernels.forward(args, begin, end); });
}

void embedding_backward(const Tensor& dtable, const Tensor& dpositions, const Tensor& tokens, const Tensor& dy,
                        int64_t rows, int64_t dim, int64_t vocab, int64_t vocab_start, int64_t batch, int64_t position,
                        int64_t max_seq) {
  const EmbeddingArgs args{&dy, &tokens, &dtable, &dpositions, rows, dim, vocab, vocab_start, batch, position};
  check(args, max_seq);
  if (rows == 0 || dim == 0) return;
  const EmbeddingTable& kernels = embeddingTable();
  // Threads take groups of 16 columns (a cache line of the table), at least kSerial additions each.
  const int64_t groups = (dim + 15) / 16, grain = (kSerial + 16 * rows - 1) / (16 * rows);
  parallelFor(groups, grain, [&](int, int64_t begin, int64_t end) {
    kernels.backward(args, 16 * begin, 16 * end < dim ? 16 * end : dim);
  });
}

}  // namespace fp8lm
