// Calls of one kernel that follow each other, sent as one launch. The kernel table has a call a parameter; a model has
// hundreds of those, most of them smaller than what fills a chip. So a call of such a kernel only notes its job; the jobs are
// sent before anything else happens on the stream: another launch, a host read or write, the end of a graph. Whoever looks
// sees what it would have seen without; tensors may be freed meanwhile, since a block that is handed out again is not written
// before the next launch. A job that touches what an earlier one writes has that one sent first. See docs/decisions/014.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <mutex>
#include <vector>

#include "context.h"

namespace fp8lm {

/// Sends what is held back, whichever kernel it is of. Called by beforeLaunch and flushGraph.
void sendGathered();

/// Held by whoever adds to a list or sends one: a communication worker may read a tensor at any time.
std::recursive_mutex& gatherMutex();
/// From now on the list of `send` is the one that is held back; another one is sent first.
void holdBack(void (*send)());

/// Device memory that kernels find at zero and leave at zero. To be made before anything is held back.
void* zeroedMemory(size_t bytes);

/// Memory that the jobs of a list touch, as disjoint spans. A job must not read or write what an earlier one writes, nor write
/// what that one reads.
class Touched {
 public:
  void clear() { spans_.clear(); }
  void add(const Tensor& t, bool written) {
    each(t, [&](uintptr_t begin, uintptr_t end) {
      Span& s = spans_[begin];
      if (end > s.end) s.end = end;
      s.written = s.written || written;
      return false;
    });
  }
  /// Reads of the same tensor do not conflict; those that overlap otherwise count as if they did.
  bool conflicts(const Tensor& t, bool written) const {
    return each(t, [&](uintptr_t begin, uintptr_t end) {
      auto s = spans_.lower_bound(end);
      if (s == spans_.begin()) return false;
      s--;
      return s->second.end > begin && (written || s->second.written || s->first != begin);
    });
  }

 private:
  struct Span {
    uintptr_t end = 0;
    bool written = false;
  };
  template <class F> static bool each(const Tensor& t, F&& f) {
    if (!t) return false;
    const auto data = reinterpret_cast<uintptr_t>(t.data), scale = reinterpret_cast<uintptr_t>(t.scale);
    return f(data, data + uintptr_t(t.size * bytesOf(t.dtype))) || (scale && f(scale, scale + kScaleBlock * sizeof(float)));
  }
  std::map<uintptr_t, Span> spans_;  // by where they begin
};

/// What a call reads or writes.
struct Access {
  const Tensor& tensor;
  bool written;
};

/// The calls of one kind that are held back, and what they touch.
template <class Call> class CallList {
 public:
  /// @param send launches what `calls` has
  explicit CallList(void (*send)()) : send_(send) {}
  std::vector<Call> calls;

  /// @param apart not to go with those before it
  void add(const Call& call, std::initializer_list<Access> accesses, bool apart = false) {
    const std::lock_guard<std::recursive_mutex> lock(gatherMutex());
    for (const Access& a : accesses) apart = apart || touched_.conflicts(a.tensor, a.written);
    if (apart) sendGathered();
    holdBack(send_);
    calls.push_back(call);
    for (const Access& a : accesses) touched_.add(a.tensor, a.written);
  }
  void clear() {
    calls.clear();
    touched_.clear();
  }

 private:
  void (*send_)();
  Touched touched_;
};

/// The jobs of one launch: which of their pieces of work (chunks) is whose. A kernel parameter, at most 32,764 bytes.
template <class Job, int most> struct JobList {
  static constexpr int kMost = most;
  Job job[most];
  int firstChunk[most + 1];
  int count = 0;

  __host__ __device__ int chunks() const { return firstChunk[count]; }
  void add(const Job& j, int64_t chunks) {
    if (count == 0) firstChunk[0] = 0;
    job[count] = j;
    firstChunk[count + 1] = int(firstChunk[count] + chunks);
    count++;
  }
  /// The job that a chunk belongs to.
  __device__ __forceinline__ int jobOf(int chunk) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (firstChunk[middle] <= chunk) low = middle;
      else high = middle - 1;
    }
    return low;
  }
};

}  // namespace fp8lm
