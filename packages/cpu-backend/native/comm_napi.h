// What fp8-dist's comm worker calls: arithmetic on views, the bytes of a tensor in place, and shared arenas. Arenas are
// anonymous (memfd): they have no name in any file system, so no end of a process can leave one behind. Part of addon.cc.
#pragma once
#include "addon.h"
#include "casts.h"
#include "comm.h"

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace fp8lm::glue {

constexpr int kMaxParts = 4096;

/// The bytes of argument `value`, which must be a typed array; false with a pending exception if it is none.
inline bool viewOf(Call& call, napi_env env, napi_value value, const char* what, void** data, size_t* length) {
  if (bytesOfArray(env, value, data, length)) return true;
  call.fail(std::string(what) + " must be a typed array");
  return false;
}

/// commReduce(dst, parts[], dtype, op, scale, steps)
static napi_value commReduce(napi_env env, napi_callback_info info) {
  Call call(env, info, "commReduce", 6);
  const int64_t code = call.integer(2, "dtype"), op = call.integer(3, "op"), steps = call.integer(5, "steps");
  const double scale = call.number(4, "scale");
  if (call.failed()) return nullptr;
  if (code < 0 || code > 5 || op < 0 || op > 2) return call.fail("dtype or op out of range"), nullptr;
  void* dst = nullptr;
  size_t length = 0;
  uint32_t count = 0;
  if (!viewOf(call, env, call.arg(0), "dst", &dst, &length)) return nullptr;
  if (napi_get_array_length(env, call.arg(1), &count) != napi_ok || count < 1 || count > kMaxParts) {
    return call.fail("parts must be an array of 1 to " + std::to_string(kMaxParts) + " views"), nullptr;
  }
  const size_t width = size_t(bytesOf(DType(code)));
  if (length % width) return call.fail(std::to_string(length) + " bytes are no whole number of elements"), nullptr;
  std::vector<const void*> parts(count);
  for (uint32_t k = 0; k < count; k++) {
    napi_value part;
    void* data = nullptr;
    size_t bytes = 0;
    if (napi_get_element(env, call.arg(1), k, &part) != napi_ok || !viewOf(call, env, part, "each part", &data, &bytes)) return nullptr;
    if (bytes != length) return call.fail("part " + std::to_string(k) + " has " + std::to_string(bytes) + " bytes, dst " + std::to_string(length)), nullptr;
    parts[k] = data;
  }
  commTable().reduce[op][code](dst, parts.data(), int(count), float(scale), steps != 0, 0, int64_t(length / width));
  return nullptr;
}

/// commRescale(dst, src, dtype, ratio): dst = encode(ratio * src), to nearest, saturating; dst may be src.
static napi_value commRescale(napi_env env, napi_callback_info info) {
  Call call(env, info, "commRescale", 4);
  const int64_t code = call.integer(2, "dtype");
  const double ratio = call.number(3, "ratio");
  if (call.failed()) return nullptr;
  if (code < 0 || code > 4) return call.fail("dtype out of range"), nullptr;
  void *dst = nullptr, *src = nullptr;
  size_t length = 0, bytes = 0;
  if (!viewOf(call, env, call.arg(0), "dst", &dst, &length) || !viewOf(call, env, call.arg(1), "src", &src, &bytes)) return nullptr;
  if (bytes != length) return call.fail("src has " + std::to_string(bytes) + " bytes, dst " + std::to_string(length)), nullptr;
  castsTable().cast[code][code](dst, src, float(ratio), 1.0f, 0, int64_t(length) / bytesOf(DType(code)));
  return nullptr;
}

inline napi_value externalBytes(napi_env env, Call& call, void* data, size_t length, napi_finalize done, void* hint) {
  napi_value out = nullptr;
  if (napi_create_external_arraybuffer(env, data, length, done, hint, &out) != napi_ok) call.fail("this Node does not allow memory outside of its heap");
  return out;
}

/// bytes(handle): the tensor's memory itself; the caller must not use it once the tensor is freed.
static napi_value tensorBytes(napi_env env, napi_callback_info info) {
  Call call(env, info, "bytes", 1);
  Entry* e = entryOf(call, 0);
  if (call.failed()) return nullptr;
  return externalBytes(env, call, e->tensor.data, size_t(e->tensor.size * bytesOf(e->tensor.dtype)), nullptr, nullptr);
}

#if defined(__linux__)
struct Mapping {
  size_t length;
  int fd;
};

static void unmap(napi_env, void* data, void* hint) {
  auto* m = static_cast<Mapping*>(hint);
  munmap(data, m->length);
  if (m->fd >= 0) close(m->fd);
  delete m;
}

/// arenaCreate(bytes): {fd, memory}
static napi_value arenaCreate(napi_env env, napi_callback_info info) {
  Call call(env, info, "arenaCreate", 1);
  const int64_t bytes = call.integer(0, "bytes");
  if (!call.failed() && (bytes < 1 || bytes > (int64_t(1) << 36))) call.fail("bytes out of range");
  if (call.failed()) return nullptr;
  const int fd = memfd_create("fp8lm", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, bytes) != 0) return call.fail("no shared memory"), nullptr;
  void* data = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return close(fd), call.fail("cannot map shared memory"), nullptr;
  const napi_value memory = externalBytes(env, call, data, size_t(bytes), unmap, new Mapping{size_t(bytes), fd});
  return call.failed() ? nullptr : Object(env).set("fd", fd).set("memory", memory).value();
}

/// arenaMap(pid, fd, bytes): the arena of another process of this user, read only.
static napi_value arenaMap(napi_env env, napi_callback_info info) {
  Call call(env, info, "arenaMap", 3);
  const int64_t pid = call.integer(0, "pid"), theirs = call.integer(1, "fd"), bytes = call.integer(2, "bytes");
  if (call.failed()) return nullptr;
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(theirs);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return call.fail("cannot open " + path), nullptr;
  struct stat about;
  if (fstat(fd, &about) != 0 || about.st_size != bytes) return close(fd), call.fail("that is no arena of " + std::to_string(bytes) + " bytes"), nullptr;
  void* data = mmap(nullptr, size_t(bytes), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (data == MAP_FAILED) return call.fail("cannot map the arena"), nullptr;
  return externalBytes(env, call, data, size_t(bytes), unmap, new Mapping{size_t(bytes), -1});
}
#endif

inline void defineComm(napi_env env, napi_value exports) {
  define(env, exports, "commReduce", commReduce);
  define(env, exports, "commRescale", commRescale);
  define(env, exports, "bytes", tensorBytes);
#if defined(__linux__)
  define(env, exports, "arenaCreate", arenaCreate);
  define(env, exports, "arenaMap", arenaMap);
#endif
}

}  // namespace fp8lm::glue
