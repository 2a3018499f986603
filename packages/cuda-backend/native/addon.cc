// The Node addon of the CUDA backend: the shared glue plus what only a device can tell, and the simulator's modes.
#include "../../fp8-kernels/native/addon.h"

#include "context.h"

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

#if defined(FP8_SIM)
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
#if defined(FP8_SIM)
  define(env, exports, "races", races);
#endif
  return install(env, exports);
}
