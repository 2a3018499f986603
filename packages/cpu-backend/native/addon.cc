// The CPU backend's Node addon: the shared glue plus what only a CPU can tell (instruction set, threads, ceilings).
#include "addon.h"

#include "comm_lane_napi.h"
#include "comm_napi.h"
#include "gemm.h"
#include "isa.h"
#include "peak.h"
#include "threads.h"

namespace fp8lm {

/// The table's gemm on the engine of gemm.h: contiguous operands, scales from the tensors.
void gemm(const Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, const Tensor& amax, int64_t m, int64_t n,
          int64_t k, int64_t trans_a, int64_t trans_b, int64_t accumulate, int64_t compute_f32, double alpha) {
  GemmArgs args{};
  args.m = m;
  args.n = n;
  args.k = k;
  args.a = {a.data, a.dtype, trans_a ? m : k, trans_a != 0, a.scale ? a.scale + kScaleInv : nullptr};
  args.b = {b.data, b.dtype, trans_b ? k : n, trans_b != 0, b.scale ? b.scale + kScaleInv : nullptr};
  args.c = c.data;
  args.cType = c.dtype;
  args.ldc = n;
  args.bias = bias.as<float>();
  args.alpha = float(alpha);
  args.accumulate = accumulate != 0;
  args.computeF32 = compute_f32 != 0;
  args.amax = amax.as<float>();
  gemm(args);
}

namespace glue {

static napi_value describe(napi_env env, napi_callback_info) {
  static const char* const names[] = {"generic", "avx2", "avx512"};
  Object out(env);
  out.set("isa", std::string(names[int(isa())])).set("threads", numThreads());
  const char* error = isaError();
  if (error && *error) out.set("error", std::string(error));
  return out.value();
}

static napi_value setThreads(napi_env env, napi_callback_info info) {
  Call call(env, info, "setThreads", 1);
  const int64_t n = call.integer(0, "threads");
  if (!call.failed() && (n < 1 || n > 256)) call.fail("threads must be 1 to 256, got " + std::to_string(n));
  if (!call.failed()) call.run([&] { setNumThreads(int(n)); });
  return nullptr;
}

static napi_value peakGflops(napi_env env, napi_callback_info info) {
  Call call(env, info, "peakGflops", 2);
  const int64_t bf16 = call.integer(0, "bf16");
  const double seconds = call.number(1, "seconds");
  return call.failed() ? nullptr : makeNumber(env, measurePeakGflops(bf16 != 0, seconds));
}

static napi_value copyGBs(napi_env env, napi_callback_info info) {
  Call call(env, info, "copyGBs", 1);
  const double seconds = call.number(0, "seconds");
  return call.failed() ? nullptr : makeNumber(env, measureCopyGBs(seconds));
}

}  // namespace glue
}  // namespace fp8lm

NAPI_MODULE_INIT() {
  using namespace fp8lm::glue;
  define(env, exports, "describe", describe);
  define(env, exports, "setThreads", setThreads);
  define(env, exports, "peakGflops", peakGflops);
  define(env, exports, "copyGBs", copyGBs);
  defineComm(env, exports);
  defineLane(env, exports);
  return install(env, exports);
}
