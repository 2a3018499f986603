// Pointers that know what they point into. Every access of a kernel goes through one of these, and each is checked.
#pragma once
#include <cstring>
#include <string>
#include <type_traits>

#include "sim.h"

namespace fp8lm {

namespace sim {

[[noreturn]] void outOfBounds(const char* name, int64_t index, int64_t size, size_t width);
[[noreturn]] void misaligned(const char* name, int64_t index, const void* address, size_t wanted);

extern bool recording;

/// One element that may be written: reads and writes are told apart, for race mode.
template <class T> class Ref {
 public:
  Ref(T* at, const char* name, int64_t index) : at_(at), name_(name), index_(index) {}
  Ref(const Ref&) = default;
  operator T() const {
    if (recording) record(at_, Access::read, name_, index_);
    return *at_;
  }
  const Ref& operator=(T v) const {
    if (recording) record(at_, Access::write, name_, index_);
    *at_ = v;
    return *this;
  }
  const Ref& operator=(const Ref& other) const { return *this = T(other); }
  const Ref& operator+=(T v) const { return *this = T(T(*this) + v); }
  const Ref& operator*=(T v) const { return *this = T(T(*this) * v); }

 private:
  T* at_;
  const char* name_;
  int64_t index_;
};

}  // namespace sim

/// Element 0 of a tensor (or of a part of it), with the elements [low, high) that may be touched.
template <class T> class Ptr {
 public:
  using Bare = std::remove_const_t<T>;
  Ptr() = default;
  Ptr(std::nullptr_t) {}
  Ptr(T* at, int64_t low, int64_t high, const char* name) : at_(at), low_(low), high_(high), name_(name) {}
  template <class U, class = std::enable_if_t<std::is_same_v<T, const U>>>
  Ptr(const Ptr<U>& o) : at_(o.raw()), low_(o.low()), high_(o.high()), name_(o.name()) {}

  explicit operator bool() const { return at_ != nullptr; }
  Ptr operator+(int64_t n) const { return {at_ + n, low_ - n, high_ - n, name_}; }
  T* raw() const { return at_; }
  int64_t low() const { return low_; }
  int64_t high() const { return high_; }
  const char* name() const { return name_; }

  /// The address of `count` elements from i on, checked.
  T* at(int64_t i, int64_t count, size_t alignment) const {
    if (i < low_ || i + count > high_) sim::outOfBounds(name_, i - low_, high_ - low_, size_t(count));
    T* const p = at_ + i;
    if (reinterpret_cast<uintptr_t>(p) % alignment) sim::misaligned(name_, i - low_, p, alignment);
    return p;
  }

  decltype(auto) operator[](int64_t i) const {
    T* const p = at(i, 1, alignof(T));
    if constexpr (std::is_const_v<T>) {
      if (sim::recording) sim::record(p, sim::Access::read, name_, i - low_);
      return T(*p);
    } else {
      return sim::Ref<T>(p, name_, i - low_);
    }
  }

 private:
  T* at_ = nullptr;
  int64_t low_ = 0, high_ = 0;
  const char* name_ = "";
};

/// A block's shared array.
template <class T> using Shared = Ptr<T>;

template <class T> struct alignas(16) Vec {
  T v[16 / sizeof(T)];
};

template <class P> auto loadVec(const P& p, int64_t i) {
  using T = typename P::Bare;
  constexpr int n = 16 / sizeof(T);
  const auto* at = p.at(i, n, 16);
  if (sim::recording)
    for (int k = 0; k < n; k++) sim::record(at + k, sim::Access::read, p.name(), i + k - p.low());
  return *reinterpret_cast<const Vec<T>*>(at);
}
template <class T> void storeVec(const Ptr<T>& p, int64_t i, const Vec<T>& v) {
  constexpr int n = 16 / sizeof(T);
  T* const at = p.at(i, n, 16);
  if (sim::recording)
    for (int k = 0; k < n; k++) sim::record(at + k, sim::Access::write, p.name(), i + k - p.low());
  *reinterpret_cast<Vec<T>*>(at) = v;
}

/// The same 16 bytes as four words.
template <class P> Vec<uint32_t> loadWords(const P& p, int64_t i) {
  const auto v = loadVec(p, i);
  Vec<uint32_t> w;
  memcpy(&w, &v, 16);
  return w;
}
template <class T> void storeWords(const Ptr<T>& p, int64_t i, const Vec<uint32_t>& w) {
  Vec<T> v;
  memcpy(&v, &w, 16);
  storeVec(p, i, v);
}
/// W words, aligned to as many bytes, at most 16.
template <int W, class P> void loadWords(const P& p, int64_t i, uint32_t (&w)[W]) {
  constexpr int n = int(4 * W / sizeof(typename P::Bare));
  const auto* at = p.at(i, n, W == 2 ? 8 : 16);
  if (sim::recording)
    for (int k = 0; k < n; k++) sim::record(at + k, sim::Access::read, p.name(), i + k - p.low());
  memcpy(w, at, 4 * W);
}
template <int W, class T> void storeWords(const Ptr<T>& p, int64_t i, const uint32_t (&w)[W]) {
  constexpr int n = int(4 * W / sizeof(T));
  T* const at = p.at(i, n, W == 2 ? 8 : 16);
  if (sim::recording)
    for (int k = 0; k < n; k++) sim::record(at + k, sim::Access::write, p.name(), i + k - p.low());
  memcpy(at, w, 4 * W);
}

inline unsigned atomicMaxAt(const Ptr<unsigned>& p, int64_t i, unsigned v) {
  unsigned* const at = p.at(i, 1, 4);
  if (sim::recording) sim::record(at, sim::Access::atomic, p.name(), i - p.low());
  const unsigned old = *at;
  if (v > old) *at = v;
  return old;
}
inline unsigned atomicAddAt(const Ptr<unsigned>& p, int64_t i, unsigned v) {
  unsigned* const at = p.at(i, 1, 4);
  if (sim::recording) sim::record(at, sim::Access::atomic, p.name(), i - p.low());
  const unsigned old = *at;
  *at = old + v;
  return old;
}
inline void acquireOtherBlocks() { sim::acquire(); }
template <class P> auto fromOtherBlocks(const P& p, int64_t i) { return typename P::Bare(p[i]); }

}  // namespace fp8lm
