// The N-API glue of a native backend: a process-wide table of tensor handles, argument checks, and the generated binding of
// every kernel. A backend includes this file in one translation unit and links its own memory.h functions and kernels.
//
// A handle is generation * 2^22 + index. The table is made of fixed chunks, so that reading an entry needs no lock and a
// handle means the same in every thread of the process (a communication worker reads the tensors of the main thread).
// Freed entries move on to the next generation: using a stale handle throws instead of touching somebody else's bytes.
#pragma once
#include <node_api.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.gen.h"
#include "memory.h"
#include "tensor.h"
#include "values.h"

namespace fp8lm::glue {

constexpr int kIndexBits = 22, kChunkBits = 12, kChunks = 1 << (kIndexBits - kChunkBits);
constexpr int64_t kMaxElements = int64_t(1) << 40;

/// Memory of a tensor and of the views into it; given back when the last of them is freed.
struct Block {
  void* data;
  int64_t bytes;
  float* scale;
  std::atomic<int> refs{1};

  Block(void* data_, int64_t bytes_, float* scale_) : data(data_), bytes(bytes_), scale(scale_) {}
  void release() {
    if (refs.fetch_sub(1) > 1) return;
    const Block block(data, bytes, scale);
    delete this;  // before release: a broken guard makes that throw
    if (block.scale) memory::releaseScale(block.scale);
    memory::release(block.data, block.bytes);
  }
};

struct Entry {
  Tensor tensor{nullptr, 0, DType::f32, nullptr};
  int64_t generation = 1;
  Block* block = nullptr;
  bool used = false;
};

class Table {
 public:
  Entry* find(int64_t handle) {
    if (handle < 0) return nullptr;
    const int64_t index = handle & ((1 << kIndexBits) - 1);
    Entry* chunk = chunks_[index >> kChunkBits].load(std::memory_order_acquire);
    if (!chunk) return nullptr;
    Entry& e = chunk[index & ((1 << kChunkBits) - 1)];
    return e.used && e.generation == handle >> kIndexBits ? &e : nullptr;
  }

  int64_t add(const Tensor& tensor, Block* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    int64_t index;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      index = next_;
      if (index >> kChunkBits >= kChunks) throw std::runtime_error("more than 4 million tensors at once");
      next_++;
      auto& chunk = chunks_[index >> kChunkBits];
      if (!chunk.load()) chunk.store(new Entry[1 << kChunkBits], std::memory_order_release);
    }
    Entry& e = chunks_[index >> kChunkBits].load()[index & ((1 << kChunkBits) - 1)];
    e.tensor = tensor;
    e.block = block;
    e.used = true;
    return (e.generation << kIndexBits) | index;
  }

  void remove(int64_t handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    Entry* e = find(handle);
    if (!e) return;
    e->used = false;
    e->generation++;
    free_.push_back(handle & ((1 << kIndexBits) - 1));
  }

 private:
  std::mutex mutex_;
  std::atomic<Entry*> chunks_[kChunks] = {};
  std::vector<int64_t> free_;
  int64_t next_ = 0;
};

inline Table table;

constexpr uint32_t bit(DType t) { return 1u << int(t); }
inline const char* nameOf(DType t) {
  static const char* const names[] = {"f32", "bf16", "f16", "e4m3", "e5m2", "i32", "u16", "u8"};
  return names[int(t)];
}
inline bool isScaled(DType t) { return t == DType::f16 || t == DType::e4m3 || t == DType::e5m2; }

/// Kernel time of this process, for profiles: one slot a kernel, in the order of the kernel table.
struct Profile {
  int64_t calls = 0, ns = 0;
};
inline Profile profile[128];

/// One call from JavaScript: reads and checks arguments; the first fault becomes a pending exception.
class Call {
 public:
  Call(napi_env env, napi_callback_info info, const char* name, size_t expected, int slot = -1)
      : env_(env), name_(name), slot_(slot) {
    size_t count = kMaxArgs;
    napi_get_cb_info(env, info, &count, argv_, nullptr, nullptr);
    if (count != expected) {
      fail("takes " + std::to_string(expected) + " arguments, got " + std::to_string(count));
    }
  }

  int64_t integer(int i, const char* arg) {
    if (failed_) return 0;
    double v = 0;
    if (napi_get_value_double(env_, argv_[i], &v) != napi_ok || !(v > -9.1e15 && v < 9.1e15) || double(int64_t(v)) != v) {
      fail(std::string(arg) + " must be a whole number");
      return 0;
    }
    if (v < 0) return fail(std::string(arg) + " must not be negative, got " + std::to_string(int64_t(v))), 0;
    return int64_t(v);
  }

  double number(int i, const char* arg) {
    double v = 0;
    if (!failed_ && napi_get_value_double(env_, argv_[i], &v) != napi_ok) fail(std::string(arg) + " must be a number");
    return v;
  }

  Tensor tensor(int i, const char* arg, uint32_t dtypes, double elements, bool optional) {
    const Tensor none{nullptr, 0, DType::f32, nullptr};
    if (failed_) return none;
    int64_t handle = -1;
    if (napi_get_value_int64(env_, argv_[i], &handle) != napi_ok) return fail(std::string(arg) + " must be a tensor"), none;
    if (handle == -1) {
      if (!optional) fail(std::string(arg) + " is missing");
      return none;
    }
    const Entry* e = table.find(handle);
    if (!e) return fail(std::string(arg) + " was freed, or is no tensor of this backend"), none;
    const Tensor& t = e->tensor;
    if (!(dtypes & bit(t.dtype))) return fail(std::string(arg) + " is " + nameOf(t.dtype) + ", which this kernel does not take"), none;
    if (!(elements <= double(t.size))) {
      char needed[32];
      snprintf(needed, sizeof needed, "%.15g", elements);
      return fail(std::string(arg) + " is " + nameOf(t.dtype) + "[" + std::to_string(t.size) + "] but needs " + needed + " elements"), none;
    }
    return t;
  }

  bool failed() const { return failed_; }

  template <class F> void run(F kernel) {
    const auto start = std::chrono::steady_clock::now();
    try {
      kernel();
    } catch (const std::exception& e) {
      fail(e.what());
    }
    if (slot_ >= 0) {
      profile[slot_].calls++;
      profile[slot_].ns += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
    }
  }

  napi_value arg(int i) const { return argv_[i]; }

  void fail(const std::string& message) {
    if (failed_) return;
    failed_ = true;
    napi_throw_range_error(env_, nullptr, (std::string(name_) + ": " + message).c_str());
  }

 private:
  static constexpr size_t kMaxArgs = 32;
  napi_env env_;
  const char* name_;
  int slot_;
  napi_value argv_[kMaxArgs];
  bool failed_ = false;
};

#include "binding.gen.h"

// --- memory ------------------------------------------------------------------------------------------------------------------

inline Entry* entryOf(Call& call, int i) {
  const int64_t handle = call.integer(i, "handle");
  Entry* e = call.failed() ? nullptr : table.find(handle);
  if (!e) call.fail("the tensor was freed, or is not of this backend");
  return e;
}

static napi_value memAlloc(napi_env env, napi_callback_info info) {
  Call call(env, info, "alloc", 2);
  const int64_t code = call.integer(0, "dtype"), size = call.integer(1, "size");
  if (!call.failed() && (code < 0 || code > 7 || size < 0 || size > kMaxElements)) call.fail("dtype or size out of range");
  if (call.failed()) return nullptr;
  const DType dtype = DType(code);
  int64_t handle = -1;
  try {
    Tensor t{memory::allocate(size * bytesOf(dtype)), size, dtype, isScaled(dtype) ? memory::allocateScale() : nullptr};
    handle = table.add(t, new Block(t.data, size * bytesOf(dtype), t.scale));
  } catch (const std::bad_alloc&) {
    call.fail("out of memory for " + std::to_string(size * bytesOf(dtype)) + " bytes (" + std::to_string(memory::stats().live) + " in use)");
  } catch (const std::exception& e) {
    call.fail(e.what());
  }
  return call.failed() ? nullptr : makeNumber(env, double(handle));
}

static napi_value memView(napi_env env, napi_callback_info info) {
  Call call(env, info, "view", 3);
  Entry* e = entryOf(call, 0);
  const int64_t offset = call.integer(1, "offset"), size = call.integer(2, "size");
  if (!call.failed() && (offset < 0 || size < 0 || offset > e->tensor.size - size)) {
    call.fail("elements [" + std::to_string(offset) + ", " + std::to_string(offset + size) + ") of " + std::to_string(e->tensor.size));
  }
  if (call.failed()) return nullptr;
  Tensor t = e->tensor;
  t.data = static_cast<char*>(t.data) + offset * bytesOf(t.dtype);
  t.size = size;
  int64_t handle = -1;
  try {
    handle = table.add(t, e->block);
    e->block->refs.fetch_add(1);
  } catch (const std::exception& error) {
    return call.fail(error.what()), nullptr;
  }
  return makeNumber(env, double(handle));
}

static napi_value memFree(napi_env env, napi_callback_info info) {
  Call call(env, info, "free", 1);
  Entry* e = entryOf(call, 0);
  if (call.failed()) return nullptr;
  Block* const block = e->block;
  table.remove(call.integer(0, "handle"));
  try {
    block->release();
  } catch (const std::exception& error) {
    call.fail(error.what());
  }
  return nullptr;
}

inline bool bytesOfArray(napi_env env, napi_value value, void** data, size_t* length) {
  bool typed = false;
  napi_is_typedarray(env, value, &typed);
  if (!typed) return false;
  napi_typedarray_type type;
  napi_value buffer;
  size_t offset, elements;
  if (napi_get_typedarray_info(env, value, &type, &elements, data, &buffer, &offset) != napi_ok) return false;
  const size_t width = type == napi_float32_array || type == napi_int32_array || type == napi_uint32_array ? 4
                       : type == napi_int16_array || type == napi_uint16_array                             ? 2
                       : type == napi_uint8_array || type == napi_int8_array || type == napi_uint8_clamped_array ? 1 : 8;
  *length = elements * width;
  return true;
}

/// The order in which scale blocks are handed over.
constexpr ScaleSlot kScaleOrder[kScaleBlock] = {kScale, kScaleInv, kAmax, kSaturated};

enum class Transfer { write, read, writeScale, readScale };

template <Transfer kind> napi_value transfer(napi_env env, napi_callback_info info) {
  Call call(env, info, kind == Transfer::write ? "write" : kind == Transfer::read ? "read" : "scale", 2);
  Entry* e = entryOf(call, 0);
  void* data = nullptr;
  size_t length = 0;
  if (!call.failed() && !bytesOfArray(env, call.arg(1), &data, &length)) call.fail("needs a typed array");
  if (call.failed()) return nullptr;
  constexpr bool scale = kind == Transfer::writeScale || kind == Transfer::readScale;
  const size_t expected = scale ? kScaleBlock * sizeof(float) : size_t(e->tensor.size * bytesOf(e->tensor.dtype));
  void* device = scale ? e->tensor.scale : e->tensor.data;
  if (scale && !device) return call.fail(std::string(nameOf(e->tensor.dtype)) + " has no scale block"), nullptr;
  if (length != expected) return call.fail("the array has " + std::to_string(length) + " bytes, the tensor " + std::to_string(expected)), nullptr;
  if constexpr (scale) {
    float block[kScaleBlock];
    float* const given = static_cast<float*>(data);
    if (kind == Transfer::readScale) memory::copyOut(block, device, length);
    for (int i = 0; i < kScaleBlock; i++) {
      if (kind == Transfer::readScale) given[i] = block[kScaleOrder[i]];
      else block[kScaleOrder[i]] = given[i];
    }
    if (kind == Transfer::writeScale) memory::copyIn(device, block, length);
  } else if (kind == Transfer::write) memory::copyIn(device, data, length);
  else memory::copyOut(data, device, length);
  return nullptr;
}

static napi_value memCopy(napi_env env, napi_callback_info info) {
  Call call(env, info, "copy", 2);
  Entry *to = entryOf(call, 0), *from = call.failed() ? nullptr : entryOf(call, 1);
  if (call.failed()) return nullptr;
  if (to->tensor.dtype != from->tensor.dtype || to->tensor.size != from->tensor.size) {
    return call.fail("from " + std::string(nameOf(from->tensor.dtype)) + "[" + std::to_string(from->tensor.size) + "] to " +
                     nameOf(to->tensor.dtype) + "[" + std::to_string(to->tensor.size) + "]; they must match"), nullptr;
  }
  memory::copy(to->tensor.data, from->tensor.data, to->tensor.size * bytesOf(to->tensor.dtype));
  if (to->tensor.scale && from->tensor.scale) memory::copy(to->tensor.scale, from->tensor.scale, kScaleBlock * sizeof(float));
  return nullptr;
}

static napi_value memStats(napi_env env, napi_callback_info) {
  const memory::Stats s = memory::stats();
  return Object(env).set("live", double(s.live)).set("peak", double(s.peak)).set("reserved", double(s.reserved)).value();
}

template <void (*f)()> napi_value plain(napi_env, napi_callback_info) {
  f();
  return nullptr;
}

/// {kernel: [calls, milliseconds]} of every kernel called since the last reset.
static napi_value readProfile(napi_env env, napi_callback_info) {
  Object out(env);
  int slot = 0;
  for (const auto& k : kKernels) {
    const Profile& p = profile[slot++];
    if (p.calls) out.set(k.name, makeList(env, {double(p.calls), double(p.ns) / 1e6}));
  }
  return out.value();
}

static napi_value resetProfile(napi_env, napi_callback_info) {
  for (auto& p : profile) p = Profile{};
  return nullptr;
}

inline void define(napi_env env, napi_value object, const char* name, napi_callback callback) {
  napi_value f;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &f);
  napi_set_named_property(env, object, name, f);
}

/// Fills `exports` with the memory functions and `exports.kernels`.
inline napi_value install(napi_env env, napi_value exports) {
  define(env, exports, "alloc", memAlloc);
  define(env, exports, "view", memView);
  define(env, exports, "free", memFree);
  define(env, exports, "write", transfer<Transfer::write>);
  define(env, exports, "read", transfer<Transfer::read>);
  define(env, exports, "writeScale", transfer<Transfer::writeScale>);
  define(env, exports, "readScale", transfer<Transfer::readScale>);
  define(env, exports, "copy", memCopy);
  define(env, exports, "memory", memStats);
  define(env, exports, "resetPeak", plain<memory::resetPeak>);
  define(env, exports, "trim", plain<memory::trim>);
  define(env, exports, "synchronize", plain<memory::synchronize>);
  define(env, exports, "profile", readProfile);
  define(env, exports, "resetProfile", resetProfile);
  napi_value kernels;
  napi_create_object(env, &kernels);
  for (const auto& k : kKernels) define(env, kernels, k.name, k.call);
  napi_set_named_property(env, exports, "kernels", kernels);
  return exports;
}

}  // namespace fp8lm::glue
