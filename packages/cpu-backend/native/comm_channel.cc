// One group's collectives: the stages of comm_lane.h.
#include <cmath>

#include "casts.h"
#include "comm.h"
#include "comm_lane.h"

namespace fp8lm::lane {
namespace {

constexpr size_t align64(size_t n) { return (n + 63) & ~size_t(63); }

}  // namespace

Channel::Channel(Lane& lane, std::vector<int> members_, std::vector<int> places, int me_, int64_t chunkBytes, int64_t eager)
    : members(static_cast<std::vector<int>&&>(members_)), me(me_), size(int(members.size())), eagerBytes(eager < kEagerBytes ? eager : kEagerBytes), lane_(lane) {
  for (int i = 0; i < size; i++) {
    const Block* block = i == me ? lane.own_ : lane.peers_[size_t(members[i])];
    blocks_.push_back(&block->channels[places[i]]);
  }
  own_ = &lane.own_->channels[places[me]];
  const int64_t parts = kPartBytes / kWindow / (size - 1), results = kResultBytes / kWindow;
  chunkBytes_ = chunkBytes < parts ? chunkBytes : parts;
  chunkBytes_ = (chunkBytes_ < results ? chunkBytes_ : results) & ~int64_t(63);
  scratch_.resize(size_t(size) + 1);
}

bool Channel::needsHelp() const {
  for (const auto& op : queue_)
    if (!op->eager || !op->announced) return true;
  return false;
}

std::vector<int> Channel::absent(uint64_t seq) const {
  std::vector<int> list;
  for (const auto& op : queue_) {
    if (op->seq != seq) continue;
    for (int i = 0; i < size; i++)
      if (i != me && (op->entered.empty() || !op->entered[size_t(i)]) && of(i).entries[seq % kEntries].seq.load(std::memory_order_acquire) < seq) list.push_back(i);
  }
  return list;
}

bool Channel::allAt(std::atomic<uint64_t> ChannelBlock::*counter, uint64_t value, WaitSet& waits) const {
  for (int step = 1; step < size; step++) {
    const int i = me + step < size ? me + step : me + step - size;
    if (int64_t((of(i).*counter).load(std::memory_order_acquire) - value) >= 0) continue;
    waits.add(members[size_t(i)]);
    return false;
  }
  return true;
}

void Channel::publish(std::atomic<uint64_t> ChannelBlock::*counter, uint64_t value) {
  (own_->*counter).store(value, std::memory_order_release);
  lane_.signal();
}

bool Channel::step(WaitSet& waits) {
  if (failed.load(std::memory_order_relaxed)) return false;
  bool moved = false;
  for (auto& op : queue_) {
    if (op->announced) continue;
    if (!announce(*op, waits)) break;
    moved = true;
  }
  while (!queue_.empty() && queue_.front()->announced) {
    Op& op = *queue_.front();
    if (!op.agreed) {
      if (!meet(op, waits)) return moved;
      moved = true;
    }
    if (op.eager) finishEager(op);
    else {
      if (!advance(op, waits)) return moved;
      moved = true;
      if (op.gave < op.rounds || op.used < op.rounds || op.wrote < op.rounds || op.took < op.rounds) return true;
      if (op.scatters()) partBase_ += uint64_t(op.rounds);
      if (op.gathers()) resultBase_ += uint64_t(op.rounds);
    }
    const uint64_t seq = op.seq;
    queue_.pop_front();
    completed.store(seq, std::memory_order_release);
    own_->done.store(seq);
    lane_.signalDone();
    moved = true;
  }
  return moved;
}

// --- announcing --------------------------------------------------------------------------------------------------------------

const char* Channel::eagerData(const Op& op, int member) const {
  return of(member).entries[op.seq % kEntries].body + align64(4 * op.scales.size());
}

bool Channel::announce(Op& op, WaitSet& waits) {
  if (op.seq > kEntries && !allAt(&ChannelBlock::done, op.seq - kEntries, waits)) {
    for (const int rank : members) waits.doneMask |= uint64_t(1) << (rank % 64);
    return false;
  }
  Entry& e = own_->entries[op.seq % kEntries];
  const size_t scaleBytes = 4 * op.scales.size();
  size_t bytes = scaleBytes;
  if (scaleBytes) memcpy(e.body, op.scales.data(), scaleBytes);
  if (op.eager) {
    char* to = e.body + align64(scaleBytes);
    const int64_t n = op.eagerElements(me, size);
    const int64_t from = op.code == Code::allGather ? op.begin(me) - op.inShift(me) : 0;
    op.in.each(from, from + n, [&](int, const char* data, int64_t count, int64_t at) {
      memcpy(to + at * op.in.width, data, size_t(count * op.in.width));
    });
    if (n > 0) bytes = align64(scaleBytes) + size_t(n * op.in.width);
  }
  memcpy(e.head, op.head, kHeadBytes);
  e.headCheck = checkOf(e.head, kHeadBytes, op.seq);
  e.bodyCheck = bytes ? checkOf(e.body, bytes, op.seq) : 0;
  e.seq.store(op.seq, std::memory_order_release);
  lane_.signal();
  lane_.sent += (sizeof e.head + 24 + bytes) * size_t(size - 1);
  op.announced = true;
  return true;
}

bool Channel::fail(int member, const unsigned char* head, const char* text) {
  trouble.member = member;
  trouble.mismatch = head != nullptr;
  if (head) memcpy(trouble.head, head, kHeadBytes);
  if (text) trouble.text = text;
  failed.store(true, std::memory_order_release);
  return false;
}

bool Channel::meet(Op& op, WaitSet& waits) {
  const size_t num = op.scales.size();
  if (op.entered.empty()) {
    op.entered.assign(size_t(size), 0);
    op.entered[size_t(me)] = 1;
    op.missing = size - 1;
    op.allScales.resize(num * size_t(size));
    if (num) memcpy(op.allScales.data() + num * size_t(me), op.scales.data(), 4 * num);
  }
  for (int step = 1; step < size && op.missing > 0; step++) {
    const int i = me + step < size ? me + step : me + step - size;
    if (op.entered[size_t(i)]) continue;
    const Entry& e = of(i).entries[op.seq % kEntries];
    const uint64_t seq = e.seq.load(std::memory_order_acquire);
    if (seq < op.seq) {
      waits.add(members[size_t(i)]);
      return false;
    }
    unsigned char head[kHeadBytes];
    memcpy(head, e.head, kHeadBytes);
    if (seq > op.seq || e.headCheck != checkOf(head, kHeadBytes, op.seq)) return fail(i, nullptr, "wrote over a collective that is in use");
    if (memcmp(head, op.head, kHeadBytes) != 0) return fail(i, head, nullptr);
    const size_t data = op.eager ? size_t(op.eagerElements(i, size) * op.in.width) : 0;
    const size_t bytes = data ? align64(4 * num) + data : 4 * num;
    if (bytes && e.bodyCheck != checkOf(e.body, bytes, op.seq)) return fail(i, nullptr, "sent data with a wrong checksum");
    if (num) memcpy(op.allScales.data() + num * size_t(i), e.body, 4 * num);
    for (size_t s = 0; s < num; s++) {
      const float scale = op.allScales[num * size_t(i) + s];
      if (!(scale > 0 && scale < INFINITY)) return fail(i, nullptr, "sent a scale that is none");
    }
    lane_.received += kHeadBytes + 24 + bytes;
    op.entered[size_t(i)] = 1;
    op.missing--;
  }
  op.agreed = true;
  op.shareScales(size, me);
  begin(op);
  return true;
}

// --- arithmetic --------------------------------------------------------------------------------------------------------------

void Channel::sum(Op& op, int64_t begin, int64_t end, int owner, const char* const* parts, bool rescale, char* result) {
  const int64_t w = op.in.width, shift = op.outShift(me);
  const auto reduce = commTable().reduce[op.reduce][int(op.dtype)];
  const auto cast = int(op.dtype) < 5 ? castsTable().cast[int(op.dtype)][int(op.dtype)] : nullptr;
  const float scale = float(op.outScale(size));
  const void* ordered[kMaxMembers];
  op.in.each(begin, end, [&](int segment, char* own, int64_t n, int64_t at) {
    for (int k = 0; k < size; k++) {
      const int i = op.steps ? (owner + 1 + k) % size : k;
      const char* from = parts[i] ? parts[i] + at * w : own;
      const double ratio = rescale || i == me ? op.ratio(i, segment) : 1;
      if (ratio != 1) {
        auto& scratch = scratch_[size_t(i)];
        if (scratch.size() < size_t(n * w)) scratch.resize(size_t(n * w));
        cast(scratch.data(), from, float(ratio), 1.0f, 0, n);
        from = scratch.data();
      }
      ordered[k] = from;
    }
    if (result) {
      reduce(result + at * w, ordered, size, scale, op.steps, 0, n);
      copyOut(op, begin + at - shift, begin + at - shift + n, result + at * w, nullptr);
      return;
    }
    char* direct = nullptr;
    int64_t whole = 0;
    op.out.each(begin + at - shift, begin + at - shift + n, [&](int, char* to, int64_t count, int64_t) {
      direct = to;
      whole = count;
    });
    if (whole == n) return reduce(direct, ordered, size, scale, op.steps, 0, n);
    auto& scratch = scratch_[size_t(size)];
    if (scratch.size() < size_t(n * w)) scratch.resize(size_t(n * w));
    reduce(scratch.data(), ordered, size, scale, op.steps, 0, n);
    copyOut(op, begin + at - shift, begin + at - shift + n, scratch.data(), nullptr);
  });
}

void Channel::copyOut(Op& op, int64_t begin, int64_t end, const char* from, const double* ratios) {
  const int64_t w = op.in.width;
  op.out.each(begin, end, [&](int segment, char* to, int64_t n, int64_t at) {
    const double ratio = ratios ? ratios[op.scales.size() == 1 ? 0 : segment] : 1;
    if (ratio != 1) castsTable().cast[int(op.dtype)][int(op.dtype)](to, from + at * w, float(ratio), 1.0f, 0, n);
    else if (to != from + at * w) memcpy(to, from + at * w, size_t(n * w));
  });
}

void Channel::readIn(Op& op, int64_t begin, int64_t end, char* to) {
  const int64_t w = op.in.width;
  op.in.each(begin, end, [&](int segment, char* from, int64_t n, int64_t at) {
    const double ratio = op.ratio(me, segment);
    if (ratio != 1) castsTable().cast[int(op.dtype)][int(op.dtype)](to + at * w, from, float(ratio), 1.0f, 0, n);
    else memcpy(to + at * w, from, size_t(n * w));
  });
}

void Channel::finishEager(Op& op) {
  const int64_t w = op.in.width;
  if (op.reduces()) {
    // A reduction that rounds at every step adds in an order that depends on the owner of the share, as in a ring.
    const int first = op.code == Code::reduceScatter ? me : 0;
    const int last = op.code == Code::reduceScatter ? me : op.steps ? size - 1 : 0;
    for (int owner = first; owner <= last; owner++) {
      const bool whole = op.code == Code::allReduce && !op.steps;
      const int64_t begin = whole ? 0 : op.begin(owner), end = whole ? op.in.size() : op.end(owner);
      const char* parts[kMaxMembers];
      for (int i = 0; i < size; i++) parts[i] = i == me ? nullptr : eagerData(op, i) + begin * w;
      sum(op, begin, end, owner, parts, true, nullptr);
    }
  } else {
    for (int i = 0; i < size; i++) {
      const double* ratios = op.ratios.empty() ? nullptr : op.ratios.data() + size_t(i) * op.scales.size();
      if (op.code == Code::allToAll) copyOut(op, op.begin(i), op.end(i), eagerData(op, i) + op.begin(me) * w, ratios);
      else if (i == me && !op.outGiven && !ratios) continue;
      else if (op.gathers() && op.end(i) > op.begin(i)) copyOut(op, op.begin(i), op.end(i), eagerData(op, i), ratios);
    }
  }
}

// --- rounds of large collectives ---------------------------------------------------------------------------------------------

void Channel::begin(Op& op) {
  if (op.eager) return;
  op.chunk = chunkBytes_ / op.in.width;
  for (int i = 0; i < size; i++) {
    const int64_t n = (op.end(i) - op.begin(i) + op.chunk - 1) / op.chunk;
    if (n > op.rounds) op.rounds = n;
  }
  if (!op.scatters()) op.gave = op.used = op.rounds;
  if (!op.gathers()) op.wrote = op.took = op.rounds;
}

void Channel::range(const Op& op, int member, int64_t round, int64_t* begin, int64_t* end) const {
  const int64_t last = op.end(member), from = op.begin(member) + round * op.chunk;
  *begin = from < last ? from : last;
  *end = from + op.chunk < last ? from + op.chunk : last;
}

char* Channel::partOf(const ChannelBlock& block, int from, int to, uint64_t round) const {
  const int64_t place = int64_t(round % kWindow) * (size - 1) + (to < from ? to : to - 1);
  return const_cast<char*>(block.parts) + place * chunkBytes_;
}

/// What others wait for goes first: results, then sums, then parts.
bool Channel::advance(Op& op, WaitSet& waits) {
  if (op.rounds == 0) return true;
  if (op.used < op.rounds && op.used < op.gave) {
    const bool room = !op.gathers() || resultBase_ + uint64_t(op.wrote) < kWindow || allAt(&ChannelBlock::taken, resultBase_ + uint64_t(op.wrote) + 1 - kWindow, waits);
    if (room && allAt(&ChannelBlock::given, partBase_ + uint64_t(op.used) + 1, waits)) return use(op), true;
  }
  if (!op.scatters() && op.wrote < op.rounds) {
    const uint64_t next = resultBase_ + uint64_t(op.wrote);
    if (next < kWindow || allAt(&ChannelBlock::taken, next + 1 - kWindow, waits)) return offer(op), true;
  }
  if (op.took < op.rounds && op.took < op.wrote && allAt(&ChannelBlock::results, resultBase_ + uint64_t(op.took) + 1, waits)) return take(op), true;
  if (op.gave < op.rounds) {
    const uint64_t next = partBase_ + uint64_t(op.gave);
    if (next < kWindow || allAt(&ChannelBlock::used, next + 1 - kWindow, waits)) return give(op), true;
  }
  return false;
}

void Channel::give(Op& op) {
  const uint64_t round = partBase_ + uint64_t(op.gave);
  for (int step = 1; step < size; step++) {
    const int to = (me + step) % size;
    int64_t begin, end;
    range(op, to, op.gave, &begin, &end);
    if (end <= begin) continue;
    readIn(op, begin, end, partOf(*own_, me, to, round));
    lane_.sent += uint64_t((end - begin) * op.in.width);
  }
  op.gave++;
  lane_.sent += 8;
  publish(&ChannelBlock::given, round + 1);
}

void Channel::use(Op& op) {
  const uint64_t round = partBase_ + uint64_t(op.used);
  int64_t begin, end;
  range(op, me, op.used, &begin, &end);
  const char* parts[kMaxMembers];
  for (int i = 0; i < size; i++) parts[i] = i == me ? nullptr : partOf(of(i), i, me, round);
  if (end > begin) {
    lane_.received += uint64_t((end - begin) * op.in.width * (size - 1));
    if (op.code == Code::allToAll) {
      for (int i = 0; i < size; i++) {
        const int64_t to = op.begin(i) + (begin - op.begin(me));
        if (parts[i]) copyOut(op, to, to + end - begin, parts[i], nullptr);
        else {
          auto& scratch = scratch_[0];
          if (scratch.size() < size_t(chunkBytes_)) scratch.resize(size_t(chunkBytes_));
          readIn(op, begin, end, scratch.data());
          copyOut(op, to, to + end - begin, scratch.data(), nullptr);
        }
      }
    } else {
      char* result = op.gathers() ? own_->outcome + int64_t((resultBase_ + uint64_t(op.wrote)) % kWindow) * chunkBytes_ : nullptr;
      sum(op, begin, end, me, parts, false, result);
      if (result) lane_.sent += uint64_t((end - begin) * op.in.width * (size - 1));
    }
  }
  op.used++;
  lane_.sent += 16;
  if (op.gathers()) {
    op.wrote++;
    (own_->results).store(resultBase_ + uint64_t(op.wrote), std::memory_order_release);
  }
  publish(&ChannelBlock::used, round + 1);
}

void Channel::offer(Op& op) {
  const uint64_t round = resultBase_ + uint64_t(op.wrote);
  const int64_t shift = op.inShift(me);
  int64_t begin, end;
  range(op, me, op.wrote, &begin, &end);
  if (end > begin) {
    char* result = own_->outcome + int64_t(round % kWindow) * chunkBytes_;
    readIn(op, begin - shift, end - shift, result);
    if (op.outGiven || !op.ratios.empty()) copyOut(op, begin, end, result, nullptr);
    lane_.sent += uint64_t((end - begin) * op.in.width * (size - 1));
  }
  op.wrote++;
  lane_.sent += 8;
  publish(&ChannelBlock::results, round + 1);
}

void Channel::take(Op& op) {
  const uint64_t round = resultBase_ + uint64_t(op.took);
  for (int step = 1; step < size; step++) {
    const int i = (me + step) % size;
    int64_t begin, end;
    range(op, i, op.took, &begin, &end);
    if (end <= begin) continue;
    copyOut(op, begin, end, of(i).outcome + int64_t(round % kWindow) * chunkBytes_, nullptr);
    lane_.received += uint64_t((end - begin) * op.in.width);
  }
  op.took++;
  lane_.sent += 8;
  publish(&ChannelBlock::taken, round + 1);
}

}  // namespace fp8lm::lane
