// Generated from packages/fp8-kernels/kernels.def by tools/generate-kernels.mjs. Do not edit.
// Included by addon.h, which provides Call (argument reading, size and dtype checks) and the handle table.

static napi_value call_fill(napi_env env, napi_callback_info info) {
  Call call(env, info, "fill", 3, 0);
  const int64_t n = call.integer(1, "n");
  const double value = call.number(2, "value");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2) | bit(DType::i32), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::fill(y, n, value); });
  return nullptr;
}

static napi_value call_cast(napi_env env, napi_callback_info info) {
  Call call(env, info, "cast", 4, 1);
  const int64_t n = call.integer(2, "n");
  const int64_t random = call.integer(3, "random");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::cast(y, x, n, random); });
  return nullptr;
}

static napi_value call_quantize(napi_env env, napi_callback_info info) {
  Call call(env, info, "quantize", 7, 2);
  const int64_t n = call.integer(5, "n");
  const int64_t random = call.integer(6, "random");
  const Tensor y = call.tensor(0, "y", bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor window = call.tensor(2, "window", bit(DType::f32), 18, true);
  const Tensor mu = call.tensor(3, "mu", bit(DType::f32), 1, true);
  const Tensor known = call.tensor(4, "known", bit(DType::f32), 1, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::quantize(y, x, window, mu, known, n, random); });
  return nullptr;
}

static napi_value call_quantize_rows(napi_env env, napi_callback_info info) {
  Call call(env, info, "quantize_rows", 8, 3);
  const int64_t rows = call.integer(5, "rows");
  const int64_t dim = call.integer(6, "dim");
  const int64_t random = call.integer(7, "random");
  const Tensor y = call.tensor(0, "y", bit(DType::e4m3) | bit(DType::e5m2), double(rows)*double(dim), false);
  const Tensor transposed = call.tensor(1, "transposed", bit(DType::e4m3) | bit(DType::e5m2), double(rows)*double(dim), true);
  const Tensor sums = call.tensor(2, "sums", bit(DType::f32), double(dim), true);
  const Tensor x = call.tensor(3, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor window = call.tensor(4, "window", bit(DType::f32), 18, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::quantize_rows(y, transposed, sums, x, window, rows, dim, random); });
  return nullptr;
}

static napi_value call_accumulate_fp8(napi_env env, napi_callback_info info) {
  Call call(env, info, "accumulate_fp8", 4, 4);
  const int64_t n = call.integer(3, "n");
  const Tensor y = call.tensor(0, "y", bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor mu = call.tensor(2, "mu", bit(DType::f32), 1, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::accumulate_fp8(y, x, mu, n); });
  return nullptr;
}

static napi_value call_amax(napi_env env, napi_callback_info info) {
  Call call(env, info, "amax", 3, 5);
  const int64_t n = call.integer(2, "n");
  const Tensor y = call.tensor(0, "y", bit(DType::f32), 1, false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::amax(y, x, n); });
  return nullptr;
}

static napi_value call_window_update(napi_env env, napi_callback_info info) {
  Call call(env, info, "window_update", 3, 6);
  const int64_t count = call.integer(1, "count");
  const double max = call.number(2, "max");
  const Tensor windows = call.tensor(0, "windows", bit(DType::f32), double(count)*18, false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::window_update(windows, count, max); });
  return nullptr;
}

static napi_value call_mu_update(napi_env env, napi_callback_info info) {
  Call call(env, info, "mu_update", 5, 7);
  const int64_t n = call.integer(2, "n");
  const double threshold = call.number(3, "threshold");
  const double growth = call.number(4, "growth");
  const Tensor mu = call.tensor(0, "mu", bit(DType::f32), 1, false);
  const Tensor x = call.tensor(1, "x", bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::mu_update(mu, x, n, threshold, growth); });
  return nullptr;
}

static napi_value call_saturated(napi_env env, napi_callback_info info) {
  Call call(env, info, "saturated", 3, 8);
  const int64_t n = call.integer(2, "n");
  const Tensor y = call.tensor(0, "y", bit(DType::f32), 1, false);
  const Tensor x = call.tensor(1, "x", bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::saturated(y, x, n); });
  return nullptr;
}

static napi_value call_mu_follow(napi_env env, napi_callback_info info) {
  Call call(env, info, "mu_follow", 5, 9);
  const double total = call.number(2, "total");
  const double threshold = call.number(3, "threshold");
  const double growth = call.number(4, "growth");
  const Tensor mu = call.tensor(0, "mu", bit(DType::f32), 1, false);
  const Tensor count = call.tensor(1, "count", bit(DType::f32), 1, false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::mu_follow(mu, count, total, threshold, growth); });
  return nullptr;
}

static napi_value call_add(napi_env env, napi_callback_info info) {
  Call call(env, info, "add", 4, 10);
  const int64_t n = call.integer(3, "n");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor a = call.tensor(1, "a", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor b = call.tensor(2, "b", bit(DType::f32) | bit(DType::bf16), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::add(y, a, b, n); });
  return nullptr;
}

static napi_value call_scale(napi_env env, napi_callback_info info) {
  Call call(env, info, "scale", 4, 11);
  const int64_t n = call.integer(2, "n");
  const double alpha = call.number(3, "alpha");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::scale(y, x, n, alpha); });
  return nullptr;
}

static napi_value call_gelu_forward(napi_env env, napi_callback_info info) {
  Call call(env, info, "gelu_forward", 4, 12);
  const int64_t n = call.integer(3, "n");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor window = call.tensor(2, "window", bit(DType::f32), 18, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::gelu_forward(y, x, window, n); });
  return nullptr;
}

static napi_value call_gelu_backward(napi_env env, napi_callback_info info) {
  Call call(env, info, "gelu_backward", 4, 13);
  const int64_t n = call.integer(3, "n");
  const Tensor dx = call.tensor(0, "dx", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor dy = call.tensor(1, "dy", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor x = call.tensor(2, "x", bit(DType::f32) | bit(DType::bf16), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::gelu_backward(dx, dy, x, n); });
  return nullptr;
}

static napi_value call_swiglu_forward(napi_env env, napi_callback_info info) {
  Call call(env, info, "swiglu_forward", 5, 14);
  const int64_t rows = call.integer(3, "rows");
  const int64_t dim = call.integer(4, "dim");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16) | bit(DType::e4m3) | bit(DType::e5m2), double(rows)*double(dim), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*2*double(dim), false);
  const Tensor window = call.tensor(2, "window", bit(DType::f32), 18, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::swiglu_forward(y, x, window, rows, dim); });
  return nullptr;
}

static napi_value call_swiglu_backward(napi_env env, napi_callback_info info) {
  Call call(env, info, "swiglu_backward", 5, 15);
  const int64_t rows = call.integer(3, "rows");
  const int64_t dim = call.integer(4, "dim");
  const Tensor dx = call.tensor(0, "dx", bit(DType::f32) | bit(DType::bf16), double(rows)*2*double(dim), false);
  const Tensor dy = call.tensor(1, "dy", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor x = call.tensor(2, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*2*double(dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::swiglu_backward(dx, dy, x, rows, dim); });
  return nullptr;
}

static napi_value call_dropout(napi_env env, napi_callback_info info) {
  Call call(env, info, "dropout", 8, 16);
  const int64_t n = call.integer(3, "n");
  const double rate = call.number(4, "rate");
  const int64_t seed = call.integer(5, "seed");
  const int64_t stream = call.integer(6, "stream");
  const int64_t offset = call.integer(7, "offset");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(n), false);
  const Tensor residual = call.tensor(2, "residual", bit(DType::f32) | bit(DType::bf16), double(n), true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::dropout(y, x, residual, n, rate, seed, stream, offset); });
  return nullptr;
}

static napi_value call_rope(napi_env env, napi_callback_info info) {
  Call call(env, info, "rope", 10, 17);
  const int64_t rows = call.integer(2, "rows");
  const int64_t batch = call.integer(3, "batch");
  const int64_t heads = call.integer(4, "heads");
  const int64_t kv_heads = call.integer(5, "kv_heads");
  const int64_t head_dim = call.integer(6, "head_dim");
  const int64_t position = call.integer(7, "position");
  const double theta = call.number(8, "theta");
  const int64_t inverse = call.integer(9, "inverse");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(rows)*(double(heads)+2*double(kv_heads))*double(head_dim), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*(double(heads)+2*double(kv_heads))*double(head_dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::rope(y, x, rows, batch, heads, kv_heads, head_dim, position, theta, inverse); });
  return nullptr;
}

static napi_value call_layer_norm_forward(napi_env env, napi_callback_info info) {
  Call call(env, info, "layer_norm_forward", 9, 18);
  const int64_t rows = call.integer(6, "rows");
  const int64_t dim = call.integer(7, "dim");
  const double eps = call.number(8, "eps");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16) | bit(DType::e4m3) | bit(DType::e5m2), double(rows)*double(dim), false);
  const Tensor stats = call.tensor(1, "stats", bit(DType::f32), double(rows)*2, false);
  const Tensor x = call.tensor(2, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor weight = call.tensor(3, "weight", bit(DType::f32), double(dim), false);
  const Tensor bias = call.tensor(4, "bias", bit(DType::f32), double(dim), true);
  const Tensor window = call.tensor(5, "window", bit(DType::f32), 18, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::layer_norm_forward(y, stats, x, weight, bias, window, rows, dim, eps); });
  return nullptr;
}

static napi_value call_layer_norm_backward(napi_env env, napi_callback_info info) {
  Call call(env, info, "layer_norm_backward", 10, 19);
  const int64_t rows = call.integer(8, "rows");
  const int64_t dim = call.integer(9, "dim");
  const Tensor dx = call.tensor(0, "dx", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor dweight = call.tensor(1, "dweight", bit(DType::f32), double(dim), false);
  const Tensor dbias = call.tensor(2, "dbias", bit(DType::f32), double(dim), true);
  const Tensor dy = call.tensor(3, "dy", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor x = call.tensor(4, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor weight = call.tensor(5, "weight", bit(DType::f32), double(dim), false);
  const Tensor stats = call.tensor(6, "stats", bit(DType::f32), double(rows)*2, false);
  const Tensor residual = call.tensor(7, "residual", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::layer_norm_backward(dx, dweight, dbias, dy, x, weight, stats, residual, rows, dim); });
  return nullptr;
}

static napi_value call_rms_norm_forward(napi_env env, napi_callback_info info) {
  Call call(env, info, "rms_norm_forward", 8, 20);
  const int64_t rows = call.integer(5, "rows");
  const int64_t dim = call.integer(6, "dim");
  const double eps = call.number(7, "eps");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16) | bit(DType::e4m3) | bit(DType::e5m2), double(rows)*double(dim), false);
  const Tensor stats = call.tensor(1, "stats", bit(DType::f32), double(rows), false);
  const Tensor x = call.tensor(2, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor weight = call.tensor(3, "weight", bit(DType::f32), double(dim), false);
  const Tensor window = call.tensor(4, "window", bit(DType::f32), 18, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::rms_norm_forward(y, stats, x, weight, window, rows, dim, eps); });
  return nullptr;
}

static napi_value call_rms_norm_backward(napi_env env, napi_callback_info info) {
  Call call(env, info, "rms_norm_backward", 9, 21);
  const int64_t rows = call.integer(7, "rows");
  const int64_t dim = call.integer(8, "dim");
  const Tensor dx = call.tensor(0, "dx", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor dweight = call.tensor(1, "dweight", bit(DType::f32), double(dim), false);
  const Tensor dy = call.tensor(2, "dy", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor x = call.tensor(3, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor weight = call.tensor(4, "weight", bit(DType::f32), double(dim), false);
  const Tensor stats = call.tensor(5, "stats", bit(DType::f32), double(rows), false);
  const Tensor residual = call.tensor(6, "residual", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::rms_norm_backward(dx, dweight, dy, x, weight, stats, residual, rows, dim); });
  return nullptr;
}

static napi_value call_gemm(napi_env env, napi_callback_info info) {
  Call call(env, info, "gemm", 13, 22);
  const int64_t m = call.integer(5, "m");
  const int64_t n = call.integer(6, "n");
  const int64_t k = call.integer(7, "k");
  const int64_t trans_a = call.integer(8, "trans_a");
  const int64_t trans_b = call.integer(9, "trans_b");
  const int64_t accumulate = call.integer(10, "accumulate");
  const int64_t compute_f32 = call.integer(11, "compute_f32");
  const double alpha = call.number(12, "alpha");
  const Tensor c = call.tensor(0, "c", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16), double(m)*double(n), false);
  const Tensor a = call.tensor(1, "a", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(m)*double(k), false);
  const Tensor b = call.tensor(2, "b", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(k)*double(n), false);
  const Tensor bias = call.tensor(3, "bias", bit(DType::f32), double(n), true);
  const Tensor amax = call.tensor(4, "amax", bit(DType::f32), 1, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::gemm(c, a, b, bias, amax, m, n, k, trans_a, trans_b, accumulate, compute_f32, alpha); });
  return nullptr;
}

static napi_value call_column_sums(napi_env env, napi_callback_info info) {
  Call call(env, info, "column_sums", 4, 23);
  const int64_t rows = call.integer(2, "rows");
  const int64_t dim = call.integer(3, "dim");
  const Tensor y = call.tensor(0, "y", bit(DType::f32), double(dim), false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::column_sums(y, x, rows, dim); });
  return nullptr;
}

static napi_value call_attention_forward(napi_env env, napi_callback_info info) {
  Call call(env, info, "attention_forward", 9, 24);
  const int64_t seq = call.integer(3, "seq");
  const int64_t batch = call.integer(4, "batch");
  const int64_t heads = call.integer(5, "heads");
  const int64_t kv_heads = call.integer(6, "kv_heads");
  const int64_t head_dim = call.integer(7, "head_dim");
  const double softmax_scale = call.number(8, "softmax_scale");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*double(heads)*double(head_dim), false);
  const Tensor lse = call.tensor(1, "lse", bit(DType::f32), double(batch)*double(heads)*double(seq), false);
  const Tensor qkv = call.tensor(2, "qkv", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*(double(heads)+2*double(kv_heads))*double(head_dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::attention_forward(y, lse, qkv, seq, batch, heads, kv_heads, head_dim, softmax_scale); });
  return nullptr;
}

static napi_value call_attention_backward(napi_env env, napi_callback_info info) {
  Call call(env, info, "attention_backward", 11, 25);
  const int64_t seq = call.integer(5, "seq");
  const int64_t batch = call.integer(6, "batch");
  const int64_t heads = call.integer(7, "heads");
  const int64_t kv_heads = call.integer(8, "kv_heads");
  const int64_t head_dim = call.integer(9, "head_dim");
  const double softmax_scale = call.number(10, "softmax_scale");
  const Tensor dqkv = call.tensor(0, "dqkv", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*(double(heads)+2*double(kv_heads))*double(head_dim), false);
  const Tensor dy = call.tensor(1, "dy", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*double(heads)*double(head_dim), false);
  const Tensor y = call.tensor(2, "y", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*double(heads)*double(head_dim), false);
  const Tensor lse = call.tensor(3, "lse", bit(DType::f32), double(batch)*double(heads)*double(seq), false);
  const Tensor qkv = call.tensor(4, "qkv", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*(double(heads)+2*double(kv_heads))*double(head_dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::attention_backward(dqkv, dy, y, lse, qkv, seq, batch, heads, kv_heads, head_dim, softmax_scale); });
  return nullptr;
}

static napi_value call_attention_cached(napi_env env, napi_callback_info info) {
  Call call(env, info, "attention_cached", 12, 26);
  const int64_t seq = call.integer(4, "seq");
  const int64_t batch = call.integer(5, "batch");
  const int64_t heads = call.integer(6, "heads");
  const int64_t kv_heads = call.integer(7, "kv_heads");
  const int64_t head_dim = call.integer(8, "head_dim");
  const int64_t start = call.integer(9, "start");
  const int64_t max_seq = call.integer(10, "max_seq");
  const double softmax_scale = call.number(11, "softmax_scale");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*double(heads)*double(head_dim), false);
  const Tensor keys = call.tensor(1, "keys", bit(DType::f32) | bit(DType::bf16), double(max_seq)*double(batch)*double(kv_heads)*double(head_dim), false);
  const Tensor values = call.tensor(2, "values", bit(DType::f32) | bit(DType::bf16), double(max_seq)*double(batch)*double(kv_heads)*double(head_dim), false);
  const Tensor qkv = call.tensor(3, "qkv", bit(DType::f32) | bit(DType::bf16), double(seq)*double(batch)*(double(heads)+2*double(kv_heads))*double(head_dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::attention_cached(y, keys, values, qkv, seq, batch, heads, kv_heads, head_dim, start, max_seq, softmax_scale); });
  return nullptr;
}

static napi_value call_embedding_forward(napi_env env, napi_callback_info info) {
  Call call(env, info, "embedding_forward", 11, 27);
  const int64_t rows = call.integer(4, "rows");
  const int64_t dim = call.integer(5, "dim");
  const int64_t vocab = call.integer(6, "vocab");
  const int64_t vocab_start = call.integer(7, "vocab_start");
  const int64_t batch = call.integer(8, "batch");
  const int64_t position = call.integer(9, "position");
  const int64_t max_seq = call.integer(10, "max_seq");
  const Tensor y = call.tensor(0, "y", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  const Tensor tokens = call.tensor(1, "tokens", bit(DType::i32), double(rows), false);
  const Tensor table = call.tensor(2, "table", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(vocab)*double(dim), false);
  const Tensor positions = call.tensor(3, "positions", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(max_seq)*double(dim), true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::embedding_forward(y, tokens, table, positions, rows, dim, vocab, vocab_start, batch, position, max_seq); });
  return nullptr;
}

static napi_value call_embedding_backward(napi_env env, napi_callback_info info) {
  Call call(env, info, "embedding_backward", 11, 28);
  const int64_t rows = call.integer(4, "rows");
  const int64_t dim = call.integer(5, "dim");
  const int64_t vocab = call.integer(6, "vocab");
  const int64_t vocab_start = call.integer(7, "vocab_start");
  const int64_t batch = call.integer(8, "batch");
  const int64_t position = call.integer(9, "position");
  const int64_t max_seq = call.integer(10, "max_seq");
  const Tensor dtable = call.tensor(0, "dtable", bit(DType::f32), double(vocab)*double(dim), false);
  const Tensor dpositions = call.tensor(1, "dpositions", bit(DType::f32), double(max_seq)*double(dim), true);
  const Tensor tokens = call.tensor(2, "tokens", bit(DType::i32), double(rows), false);
  const Tensor dy = call.tensor(3, "dy", bit(DType::f32) | bit(DType::bf16), double(rows)*double(dim), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::embedding_backward(dtable, dpositions, tokens, dy, rows, dim, vocab, vocab_start, batch, position, max_seq); });
  return nullptr;
}

static napi_value call_softmax_cross_entropy(napi_env env, napi_callback_info info) {
  Call call(env, info, "softmax_cross_entropy", 9, 29);
  const int64_t rows = call.integer(3, "rows");
  const int64_t vocab = call.integer(4, "vocab");
  const int64_t stride = call.integer(5, "stride");
  const double grad_scale = call.number(6, "grad_scale");
  const double smoothing = call.number(7, "smoothing");
  const int64_t backward = call.integer(8, "backward");
  const Tensor logits = call.tensor(0, "logits", bit(DType::f32) | bit(DType::bf16), double(rows)*double(stride), false);
  const Tensor loss = call.tensor(1, "loss", bit(DType::f32), double(rows), false);
  const Tensor targets = call.tensor(2, "targets", bit(DType::i32), double(rows), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::softmax_cross_entropy(logits, loss, targets, rows, vocab, stride, grad_scale, smoothing, backward); });
  return nullptr;
}

static napi_value call_softmax_stats(napi_env env, napi_callback_info info) {
  Call call(env, info, "softmax_stats", 6, 30);
  const int64_t rows = call.integer(3, "rows");
  const int64_t vocab = call.integer(4, "vocab");
  const int64_t vocab_start = call.integer(5, "vocab_start");
  const Tensor stats = call.tensor(0, "stats", bit(DType::f32), double(rows)*4, false);
  const Tensor logits = call.tensor(1, "logits", bit(DType::f32) | bit(DType::bf16), double(rows)*double(vocab), false);
  const Tensor targets = call.tensor(2, "targets", bit(DType::i32), double(rows), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::softmax_stats(stats, logits, targets, rows, vocab, vocab_start); });
  return nullptr;
}

static napi_value call_sharded_cross_entropy(napi_env env, napi_callback_info info) {
  Call call(env, info, "sharded_cross_entropy", 12, 31);
  const int64_t rows = call.integer(4, "rows");
  const int64_t vocab = call.integer(5, "vocab");
  const int64_t vocab_start = call.integer(6, "vocab_start");
  const int64_t parts = call.integer(7, "parts");
  const int64_t total = call.integer(8, "total");
  const double grad_scale = call.number(9, "grad_scale");
  const double smoothing = call.number(10, "smoothing");
  const int64_t backward = call.integer(11, "backward");
  const Tensor logits = call.tensor(0, "logits", bit(DType::f32) | bit(DType::bf16), double(rows)*double(vocab), false);
  const Tensor loss = call.tensor(1, "loss", bit(DType::f32), double(rows), false);
  const Tensor stats = call.tensor(2, "stats", bit(DType::f32), double(parts)*double(rows)*4, false);
  const Tensor targets = call.tensor(3, "targets", bit(DType::i32), double(rows), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::sharded_cross_entropy(logits, loss, stats, targets, rows, vocab, vocab_start, parts, total, grad_scale, smoothing, backward); });
  return nullptr;
}

static napi_value call_sum(napi_env env, napi_callback_info info) {
  Call call(env, info, "sum", 4, 32);
  const int64_t n = call.integer(2, "n");
  const double alpha = call.number(3, "alpha");
  const Tensor y = call.tensor(0, "y", bit(DType::f32), 1, false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::sum(y, x, n, alpha); });
  return nullptr;
}

static napi_value call_sum_squares(napi_env env, napi_callback_info info) {
  Call call(env, info, "sum_squares", 3, 33);
  const int64_t n = call.integer(2, "n");
  const Tensor y = call.tensor(0, "y", bit(DType::f32), 1, false);
  const Tensor x = call.tensor(1, "x", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::sum_squares(y, x, n); });
  return nullptr;
}

static napi_value call_clip_control(napi_env env, napi_callback_info info) {
  Call call(env, info, "clip_control", 4, 34);
  const int64_t count = call.integer(2, "count");
  const double max_norm = call.number(3, "max_norm");
  const Tensor control = call.tensor(0, "control", bit(DType::f32), 4, false);
  const Tensor sums = call.tensor(1, "sums", bit(DType::f32), double(count), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::clip_control(control, sums, count, max_norm); });
  return nullptr;
}

static napi_value call_adamw(napi_env env, napi_callback_info info) {
  Call call(env, info, "adamw", 14, 35);
  const int64_t n = call.integer(7, "n");
  const int64_t phase = call.integer(8, "phase");
  const double lr = call.number(9, "lr");
  const double beta1 = call.number(10, "beta1");
  const double beta2 = call.number(11, "beta2");
  const double eps = call.number(12, "eps");
  const double weight_decay = call.number(13, "weight_decay");
  const Tensor w = call.tensor(0, "w", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor master = call.tensor(1, "master", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), true);
  const Tensor grad = call.tensor(2, "grad", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor m = call.tensor(3, "m", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor v = call.tensor(4, "v", bit(DType::f32) | bit(DType::bf16) | bit(DType::f16) | bit(DType::e4m3) | bit(DType::e5m2), double(n), false);
  const Tensor control = call.tensor(5, "control", bit(DType::f32), 4, false);
  const Tensor amaxes = call.tensor(6, "amaxes", bit(DType::f32), 3, true);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::adamw(w, master, grad, m, v, control, amaxes, n, phase, lr, beta1, beta2, eps, weight_decay); });
  return nullptr;
}

static napi_value call_random_normal(napi_env env, napi_callback_info info) {
  Call call(env, info, "random_normal", 6, 36);
  const int64_t n = call.integer(1, "n");
  const double std = call.number(2, "std");
  const int64_t seed = call.integer(3, "seed");
  const int64_t stream = call.integer(4, "stream");
  const int64_t offset = call.integer(5, "offset");
  const Tensor y = call.tensor(0, "y", bit(DType::f32), double(n), false);
  if (call.failed()) return nullptr;
  call.run([&] { fp8lm::random_normal(y, n, std, seed, stream, offset); });
  return nullptr;
}

static const struct { const char* name; napi_callback call; } kKernels[] = {
    {"fill", call_fill},
    {"cast", call_cast},
    {"quantize", call_quantize},
    {"quantize_rows", call_quantize_rows},
    {"accumulate_fp8", call_accumulate_fp8},
    {"amax", call_amax},
    {"window_update", call_window_update},
    {"mu_update", call_mu_update},
    {"saturated", call_saturated},
    {"mu_follow", call_mu_follow},
    {"add", call_add},
    {"scale", call_scale},
    {"gelu_forward", call_gelu_forward},
    {"gelu_backward", call_gelu_backward},
    {"swiglu_forward", call_swiglu_forward},
    {"swiglu_backward", call_swiglu_backward},
    {"dropout", call_dropout},
    {"rope", call_rope},
    {"layer_norm_forward", call_layer_norm_forward},
    {"layer_norm_backward", call_layer_norm_backward},
    {"rms_norm_forward", call_rms_norm_forward},
    {"rms_norm_backward", call_rms_norm_backward},
    {"gemm", call_gemm},
    {"column_sums", call_column_sums},
    {"attention_forward", call_attention_forward},
    {"attention_backward", call_attention_backward},
    {"attention_cached", call_attention_cached},
    {"embedding_forward", call_embedding_forward},
    {"embedding_backward", call_embedding_backward},
    {"softmax_cross_entropy", call_softmax_cross_entropy},
    {"softmax_stats", call_softmax_stats},
    {"sharded_cross_entropy", call_sharded_cross_entropy},
    {"sum", call_sum},
    {"sum_squares", call_sum_squares},
    {"clip_control", call_clip_control},
    {"adamw", call_adamw},
    {"random_normal", call_random_normal},
};
