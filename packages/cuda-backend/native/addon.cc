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

/// {device, major, minor, …}, or {error} that says what is missing.
static napi_value describe(napi_env env, napi_callback_info) {
  Object out(env);
  try {
    const DeviceInfo& d = device();
    out.set("device", d.name).set("index", d.index).set("major", d.major).set("minor", d.minor);
    out.set("multiprocessors", d.multiprocessors).set("bytes", double(d.bytes)).set("fp8", d.fp8() ? 1 : 0);
    out.set("runtime", d.runtimeVersion).set("driver", d.driverVersion);
    const lt::Library& library = lt::library();
    out.set("cublaslt", library.error.empty() ? library.where + ", version " + std::to_string(library.version()) : std::string());
    out.set("cublasltError", library.error);
  } catch (const std::exception& e) {
    out.set("error", std::string(e.what()));
  }
  return out.value();
}

static napi_value graphs(napi_env env, napi_callback_info) {
  const GraphStats s = graphStats();
  return Object(env).set("launches", double(s.launches)).set("updates", double(s.updates)).set("instantiations", double(s.instantiations)).value();
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
  const GemmCounts& c = gemmCounts();
  return Object(env).set("fp8", double(c.fp8)).set("library", double(c.library)).set("own", double(c.own)).value();
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
  Object out(env);
  call.run([&] {
    for (const auto& [name, time] : fp8lm::launchTimes()) out.set(name.c_str(), makeList(env, {double(time.calls), time.ms}));
  });
  return out.value();
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
