// The embedding kernels and rope against float64.
namespace fp8lm::check {

inline void checkEmbedding() {
  const int64_t vocab = 37, start = 5, maxSeq = 19, position = 4;
  for (DType tableType : {DType::f32, DType::bf16, DType::f16, DType::e4m3, DType::e5m2})
    for (DType type : {DType::f32, DType::bf16})
      for (int64_t dim : {1, 16, 33, 300})
        for (int64_t batch : {1, 3}) {
          const bool positions = dim != 16;
          const std::string what =
              "embedding dim " + std::to_string(dim) + " table dtype " + std::to_string(int(tableType));
          const int64_t rows = 15 * batch;
          Buffer table(tableType, vocab * dim), place(type, maxSeq * dim, 42), tokens(DType::i32, rows),
              y(type, rows * dim);
          if (tableType != DType::f32 && tableType != DType::bf16)
            table.block[kScale] = 64, table.block[kScaleInv] = 1.0f / 64;
          for (int64_t i = 0; i < table.n; i++) table.set(i, 0.5 * philoxNormal(philox({1, 1}, uint64_t(i), 3)));
          for (int64_t r = 0; r < rows; r++)
            tokens.put(r, int32_t((r * 31) % (vocab + 12)));  // some before, some behind the slice
          tokens.put(0, INT32_MIN), tokens.put(1, INT32_MAX), tokens.put(2, int32_t(-1));
          std::vector<double> want(size_t(rows * dim), 0.0), dTable(size_t(vocab * dim), 0.0),
              dPlace(size_t(maxSeq * dim), 0.0);
          Buffer dy(type, rows * dim, 43), dt(DType::f32, vocab * dim, 44), dp(DType::f32, maxSeq * dim, 45);
          for (size_t i = 0; i < dTable.size(); i++) dTable[i] = dt.get(int64_t(i));  // gradients are added to
          for (size_t i = 0; i < dPlace.size(); i++) dPlace[i] = dp.get(int64_t(i));
          for (int64_t r = 0; r < rows; r++) {
            const int64_t token = tokens.at<int32_t>(r) - start, t = position + r / batch;
            if (token < 0 || token >= vocab) continue;
            for (int64_t c = 0; c < dim; c++) {
              want[size_t(r * dim + c)] = table.get(token * dim + c) + (positions ? place.get(t * dim + c) : 0);
              dTable[size_t(token * dim + c)] += dy.get(r * dim + c);
              dPlace[size_t(t * dim + c)] += positions ? dy.get(r * dim + c) : 0;
            }
          }
          embedding_forward(y.tensor(), tokens.tensor(), table.tensor(), positions ? place.tensor() : kNone, rows, dim,
                            vocab, start, batch, position, maxSeq);
          close(y, want, type == DType::bf16 ? 4e-3 : 1e-7, what + " forward");
          embedding_backward(dt.tensor(), positions ? dp.tensor() : kNone, tokens.tensor(), dy.tensor(), rows, dim,
                             vocab, start, batch, position, maxSeq);
          close(dt, dTable, 3e-7, what + " dtable");
          close(dp, dPlace, 3e-7, what + " dpositions");
          fact(table.intact() && place.intact() && tokens.intact() && dy.intact(), what + ": inputs' guards");
          bool threw = false;
          try {
            embedding_forward(y.tensor(), tokens.tensor(), table.tensor(), place.tensor(), rows, dim, vocab, start,
                              batch, maxSeq - 14, maxSeq);
          } catch (const std::exception&) { threw = true; }
          fact(threw, "embedding_forward refuses positions beyond max_seq");
        }
  // Large enough to be split over threads.
  const int64_t rows = 500, dim = 200;
  Buffer tokens(DType::i32, rows), dy(DType::bf16, rows * dim, 46), dt(DType::f32, 10 * dim);
  std::vector<double> want(size_t(10 * dim), 0.0);
  for (int64_t i = 0; i < dt.n; i++) dt.set(i, 0);
  for (int64_t r = 0; r < rows; r++) {
    tokens.put(r, int32_t(r * r % 10));
    for (int64_t c = 0; c < dim; c++) want[size_t(r * r % 10 * dim + c)] += dy.get(r * dim + c);
  }
  embedding_backward(dt.tensor(), kNone, tokens.tensor(), dy.tensor(), rows, dim, 10, 0, 5, 0, 100);
  close(dt, want, 1e-6, "embedding_backward of 500 rows");
}

inline void checkRope() {
  for (DType type : {DType::f32, DType::bf16})
    for (int64_t dim : {2, 8, 20, 64, 128})
      for (int64_t batch : {1, 3})
        for (int64_t inverse : {0, 1}) {
          const int64_t heads = 3, kvHeads = 1, rows = 70 * batch, position = 1000, width = (heads + 2 * kvHeads) * dim;
          const double theta = 10000;
          const std::string what = "rope D " + std::to_string(dim) + (type == DType::bf16 ? " bf16" : " f32");
          Buffer x(type, rows * width, 51), y(type, rows * width),
              other(type == DType::f32 ? DType::bf16 : DType::f32, rows * width);
          std::vector<double> want = x.values();
          for (int64_t r = 0; r < rows; r++)
            for (int64_t h = 0; h < heads + kvHeads; h++)
              for (int64_t i = 0; i < dim / 2; i++) {
                const double angle =
                    double(position + r / batch) * std::pow(theta, -2.0 * double(i) / double(dim)) * (inverse ? -1 : 1);
                double &a = want[size_t(r * width + h * dim + i)], &b = want[size_t(r * width + h * dim + i + dim / 2)];
                const double x1 = a, x2 = b;
                a = x1 * std::cos(angle) - x2 * std::sin(angle);
                b = x2 * std::cos(angle) + x1 * std::sin(angle);
              }
          rope(y.tensor(), x.tensor(), rows, batch, heads, kvHeads, dim, position, theta, inverse);
          close(y, want, type == DType::bf16 ? 4e-3 : 1e-7, what);
          rope(other.tensor(), x.tensor(), rows, batch, heads, kvHeads, dim, position, theta, inverse);
          close(other, want, 4e-3, what + " to the other dtype");
          rope(x.tensor(), x.tensor(), rows, batch, heads, kvHeads, dim, position, theta, inverse);
          fact(x.bytes == y.bytes, what + " in place");
        }
}

}  // namespace fp8lm::check
