// The Node addon of the CUDA backend: the shared glue plus what only a device can tell, and the simulator's modes.
#include "../../fp8-kernels/native/addon.h"

#include "context.h"
#include "cublaslt.h"
#include "gemm.h"
#include "timing.h"
#if defined(FP8_SIM)
#include "sim/faulty.h"
#endif

namespace fp8lm {
void useGraphs(bool on);  // graph.cu
}

namespace fp8lm::glue {

static void set(napi_env env, napi_value object, const char* name, const std::string& text) {
  napi_value v;
  napi_create_string_utf8(env, text.c_str(), text.size(), &v);
  napi_set_named_property(env, object, name, v);
}
static void set(napi_env env, napi_value object, const char* name, double number) {
  napi_set_named_property(env, object, name, makeNumber(env, number));
}

/// {device, major, minor, …}, or {error} that says what is missing.
static napi_value describe(napi_env env, napi_callback_info) {
  napi_value out;
  napi_create_object(env, &out);
  try {
    const DeviceInfo& d = device();
    set(env, out, "device", d.name);
    set(env, out, "index", d.index);
    set(env, out, "major", d.major);
    set(env, out, "minor", d.minor);
    set(env, out, "multiprocessors", d.multiprocessors);
    set(env, out, "bytes", double(d.bytes));
    set(env, out, "fp8", d.fp8() ? 1 : 0);
    set(env, out, "runtime", d.runtimeVersion);
    set(env, out, "driver", d.driverVersion);
    const lt::Library& library = lt::library();
    set(env, out, "cublaslt", library.error.empty() ? library.where + ", version " + std::to_string(library.version()) : std::string());
    set(env, out, "cublasltError", library.error);
  } catch (const std::exception& e) {
    set(env, out, "error", std::string(e.what()));
  }
  return out;
}

static napi_value graphs(napi_env env, napi_callback_info) {
  napi_value out;
  napi_create_object(env, &out);
  const GraphStats s = graphStats();
  set(env, out, "launches", double(s.launches));
  set(env, out, "updates", double(s.updates));
  set(env, out, "instantiations", double(s.instantiations));
  return out;
}

/// useGraphs(on): whether launches are gathered into CUDA graphs.
static napi_value switchGraphs(napi_env env, napi_callback_info info) {
  Call call(env, info, "useGraphs", 1);
  const int64_t on = call.integer(0, "on");
  if (!call.failed()) call.run([&] { useGraphs(on != 0); });
  return nullptr;
}

/// Products computed so far: by cuBLASLt in FP8, by cuBLASLt in other dtypes, by our own kernels.
static napi_value gemms(napi_env env, napi_callback_info) {
  napi_value out;
  napi_create_object(env, &out);
  const GemmCounts& c = gemmCounts();
  set(env, out, "fp8", double(c.fp8));
  set(env, out, "library", double(c.library));
  set(env, out, "own", double(c.own));
  return out;
}

/// ownGemm(on): leaves cuBLASLt alone.
static napi_value ownGemm(napi_env env, napi_callback_info info) {
  Call call(env, info, "ownGemm", 1);
  const int64_t on = call.integer(0, "on");
  if (!call.failed()) gemmOwnOnly() = on != 0;
  return nullptr;
}

/// {launch: [calls, milliseconds on the device]} since the last reset; only with FP8_CUDA_TIMES=1.
static napi_value times(napi_env env, napi_callback_info info) {
  Call call(env, info, "times", 0);
  napi_value out;
  napi_create_object(env, &out);
  call.run([&] {
    for (const auto& [name, time] : fp8lm::launchTimes()) {
      napi_value pair;
      napi_create_array_with_length(env, 2, &pair);
      napi_set_element(env, pair, 0, makeNumber(env, double(time.calls)));
      napi_set_element(env, pair, 1, makeNumber(env, time.ms));
      napi_set_named_property(env, out, name.c_str(), pair);
    }
  });
  return out;
}

#if defined(FP8_SIM)
/// faulty(kind): a kernel that is wrong on purpose.
static napi_value faulty(napi_env env, napi_callback_info info) {
  Call call(env, info, "faulty", 1);
  char kind[64] = {};
  size_t length = 0;
  if (call.failed() || napi_get_value_string_utf8(env, call.arg(0), kind, sizeof kind, &length) != napi_ok) return nullptr;
  call.run([&] { runFaulty(kind); });
  return nullptr;
}

/// races(on, seed): race mode of the simulated device.
static napi_value races(napi_env env, napi_callback_info info) {
  Call call(env, info, "races", 2);
  const int64_t on = call.integer(0, "on"), seed = call.integer(1, "seed");
  if (call.failed()) return nullptr;
  sim::options().races = on != 0;
  sim::options().seed = uint64_t(seed);
  return nullptr;
}
#endif

}  // namespace fp8lm::glue

NAPI_MODULE_INIT() {
  using namespace fp8lm::glue;
  define(env, exports, "describe", describe);
  define(env, exports, "graphs", graphs);
  define(env, exports, "useGraphs", switchGraphs);
  define(env, exports, "gemms", gemms);
  define(env, exports, "ownGemm", ownGemm);
  define(env, exports, "times", times);
  define(env, exports, "resetTimes", plain<fp8lm::resetLaunchTimes>);
#if defined(FP8_SIM)
  define(env, exports, "races", races);
  define(env, exports, "faulty", faulty);
#endif
  return install(env, exports);
}
