#include "comm_op.h"

#include <cmath>
#include <cstring>

namespace fp8lm::lane {
namespace {

bool isScaled(DType t) { return t == DType::f16 || t == DType::e4m3 || t == DType::e5m2; }

}  // namespace

std::string Op::fault(int n, int me) const {
  if (int(bounds.size()) != n + 1 || bounds[0] != 0) return "bounds do not begin at 0 or are not one more than the members";
  for (int i = 0; i < n; i++)
    if (bounds[i + 1] < bounds[i]) return "bounds do not ascend";
  if (int(root) >= n) return "root is no member";
  if (code == Code::send && (n != 2 || root != 0)) return "a send goes from the first of two members to the second";
  if (int(dtype) > 5 && reduces()) return "this dtype cannot be reduced";
  const int64_t total = bounds[n], own = end(me) - begin(me), inputs = in.size(), outputs = out.size();
  bool fits = false;
  switch (code) {
    case Code::allReduce: fits = !outGiven && inputs == total; break;
    case Code::reduceScatter: fits = inputs == total && (!outGiven || outputs == own); break;
    case Code::allGather: fits = outputs == total && (outGiven ? inputs == own : inputs == total); break;
    case Code::send:
    case Code::broadcast: fits = !outGiven && inputs == total && total == end(int(root)) - begin(int(root)); break;
    case Code::allToAll: fits = outGiven && inputs == total && outputs == total; break;
    case Code::barrier:
    case Code::close: fits = inputs == 0 && total == 0; break;
  }
  if (fits && code == Code::allToAll)
    for (int i = 0; i < n; i++) fits = fits && (bounds[i + 1] - bounds[i]) * n == total;
  if (!fits) return "shares do not fit the tensors";
  const size_t expected = isScaled(dtype) ? in.segments().size() : 0;
  if (scales.size() != expected) return "not one scale a tensor";
  return "";
}

int64_t Op::eagerElements(int rank, int n) const {
  (void)n;
  if (code == Code::allGather) return end(rank) - begin(rank);
  if (spreads()) return rank == int(root) ? in.size() : 0;
  return in.size();
}

void Op::seal(int n, int64_t eagerBytes) {
  int64_t most = 0;
  for (int i = 0; i < n; i++) {
    const int64_t bytes = eagerElements(i, n) * in.width;
    most = bytes > most ? bytes : most;
  }
  eager = most <= eagerBytes;
  head[0] = static_cast<unsigned char>(code);
  head[1] = static_cast<unsigned char>(dtype);
  head[2] = static_cast<unsigned char>(reduce);
  head[3] = static_cast<unsigned char>((mean ? 1 : 0) | (steps ? 2 : 0) | (keep ? 4 : 0));
  const double elements = double(count());
  const uint32_t numScales = uint32_t(scales.size()), none = 0;
  memcpy(head + 4, &root, 4);
  memcpy(head + 8, &elements, 8);
  memcpy(head + 16, &shape, 4);
  memcpy(head + 20, &numScales, 4);
  memcpy(head + 24, &none, 4);
}

double Op::outScale(int n) const {
  if (reduce != 0) return 1;
  if (!scales.empty()) {
    int up = 0;
    while ((1 << up) < n) up++;
    return keep ? 1 : std::ldexp(1.0, -up);
  }
  return mean && dtype != DType::i32 ? 1.0 / n : 1;
}

int Op::soleOwner(int segment, int n) const {
  if (spreads()) return int(root);
  if (code != Code::allGather) return -1;
  const Layout::Segment& s = out.segments()[size_t(segment)];
  for (int i = 0; i < n; i++)
    if (s.begin >= begin(i) && s.end <= end(i) && s.end > s.begin) return i;
  return -1;
}

void Op::shareScales(int n, int me) {
  const size_t num = scales.size();
  if (num == 0) return;
  std::vector<double> factors(size_t(n) * num, 1.0);
  bool any = false;
  for (size_t s = 0; s < num; s++) {
    const int owner = reduces() ? -1 : soleOwner(int(s), n);
    float shared = INFINITY;
    for (int i = 0; i < n; i++) shared = std::fmin(shared, allScales[size_t(i) * num + s]);
    float result = owner >= 0 ? allScales[size_t(owner) * num + s] : shared;
    if (owner < 0) {
      for (int i = 0; i < n; i++) {
        const double f = double(shared) / double(allScales[size_t(i) * num + s]);
        factors[size_t(i) * num + s] = f;
        any = any || f != 1;
      }
    }
    if (reduces()) result = float(double(result) * (outScale(n) * (mean ? n : 1)));
    if (code == Code::reduceScatter && !outGiven) {
      const Layout::Segment& seg = in.segments()[s];
      if (!(seg.begin >= begin(me) && seg.end <= end(me))) result = scales[s];
    }
    finalScales[s] = result;
  }
  if (any) ratios = static_cast<std::vector<double>&&>(factors);
}

}  // namespace fp8lm::lane
