// One collective of a lane as this rank sees it: its tensors, shares and scales, and how far it is.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "../../fp8-kernels/native/tensor.h"

namespace fp8lm::lane {

/// Numbers as in engine/descriptor.ts.
enum class Code { allReduce, reduceScatter, allGather, broadcast, allToAll, send, barrier, close };

/// Tensors seen as one run of elements.
class Layout {
 public:
  struct Segment {
    char* data;
    int64_t begin, end;  // elements of the run
  };

  int64_t width = 1;

  void add(void* data, int64_t elements) {
    const int64_t at = size();
    segments_.push_back({static_cast<char*>(data), at, at + elements});
  }
  int64_t size() const { return segments_.empty() ? 0 : segments_.back().end; }
  const std::vector<Segment>& segments() const { return segments_; }

  /// f(int segment, char* bytes, int64_t elements, int64_t at) for each stretch of [begin, end) within a segment; `at` counts
  /// elements from `begin`.
  template <class F> void each(int64_t begin, int64_t end, F&& f) const {
    size_t low = 0, high = segments_.size();
    while (low < high) {
      const size_t middle = (low + high) / 2;
      if (segments_[middle].end <= begin) low = middle + 1;
      else high = middle;
    }
    for (; low < segments_.size() && segments_[low].begin < end; low++) {
      const Segment& s = segments_[low];
      const int64_t from = begin > s.begin ? begin : s.begin, to = end < s.end ? end : s.end;
      if (from < to) f(int(low), s.data + (from - s.begin) * width, to - from, from - begin);
    }
  }

 private:
  std::vector<Segment> segments_;
};

struct Op {
  uint64_t seq = 0;
  Code code = Code::barrier;
  DType dtype = DType::u8;
  int reduce = 0;  // sum, max, min
  bool mean = false, steps = false, keep = false;
  uint32_t root = 0, shape = 0;
  Layout in, out;
  bool outGiven = false;  // else `out` is `in`
  std::vector<int64_t> bounds;
  std::vector<float> scales;     // as announced
  float* finalScales = nullptr;  // the caller's memory, written at the end

  unsigned char head[28];
  bool eager = false, announced = false, agreed = false;
  int missing = 0;               // members that have not announced it
  std::vector<char> entered;     // by member
  std::vector<float> allScales;  // by member, then segment
  std::vector<double> ratios;    // by member, then segment; empty: all are 1
  int64_t chunk = 0, rounds = 0; // elements of a share that travel in one round
  int64_t gave = 0, used = 0, wrote = 0, took = 0;

  bool reduces() const { return code == Code::allReduce || code == Code::reduceScatter; }
  bool scatters() const { return reduces() || code == Code::allToAll; }
  /// From one member to the others: a send is a broadcast to one.
  bool spreads() const { return code == Code::broadcast || code == Code::send; }
  bool gathers() const { return code == Code::allReduce || code == Code::allGather || spreads(); }
  int64_t begin(int rank) const { return bounds[rank]; }
  int64_t end(int rank) const { return bounds[rank + 1]; }
  int64_t count() const { return in.size() > out.size() ? in.size() : out.size(); }
  /// Where this rank's own share begins in `in`: out of place, an all-gather's input is that share.
  int64_t inShift(int me) const { return code == Code::allGather && outGiven ? bounds[me] : 0; }
  /// The same in `out`: out of place, a reduce-scatter's output is that share.
  int64_t outShift(int me) const { return reduces() && outGiven ? bounds[me] : 0; }
  double ratio(int member, int segment) const { return ratios.empty() ? 1 : ratios[size_t(member) * scales.size() + segment]; }

  /// Checks that bounds, sizes and codes fit together; what is wrong, or nothing. @param n members
  std::string fault(int n, int me) const;
  /// Writes `head`, and decides whether the data goes with the announcement.
  void seal(int n, int64_t eagerBytes);
  /// Elements that member `rank` sends along when eager.
  int64_t eagerElements(int rank, int n) const;
  /// Once all have announced: the shared scales and each member's factors to them.
  void shareScales(int n, int me);
  /// Factor on a sum before it is stored.
  double outScale(int n) const;

 private:
  int soleOwner(int segment, int n) const;
};

}  // namespace fp8lm::lane
