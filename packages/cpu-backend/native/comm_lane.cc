// A rank's lane: its block, the threads that do the work, sleeping and waking.
#include "comm_lane.h"

#include <stdexcept>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#endif

namespace fp8lm::lane {

#if defined(__linux__)
Lane::Lane(int rank, int spinNs) : rank_(rank), spinNs_(spinNs) {
  fd_ = memfd_create("fp8lm-lane", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0 || ftruncate(fd_, sizeof(Block)) != 0) {
    if (fd_ >= 0) close(fd_);
    throw std::runtime_error("no shared memory");
  }
  void* data = mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_, 0);
  if (data == MAP_FAILED) {
    close(fd_);
    throw std::runtime_error("cannot map shared memory");
  }
  own_ = static_cast<Block*>(data);
  own_->magic = kMagic;
  // From here on nobody, this process included, can shrink it under a reader or map it writable once more. Kernels before
  // 5.1 do not know the last seal.
  if (fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) != 0) fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  fcntl(fd_, F_ADD_SEALS, F_SEAL_SEAL);
  helper_ = std::thread([this] { help(); });
}

Lane::~Lane() {
  stop_ = true;
  kick();
  helper_.join();
  munmap(own_, sizeof(Block));
  close(fd_);
  for (const Block* b : peers_)
    if (b) munmap(const_cast<Block*>(b), sizeof(Block));
}

void Lane::connect(int rank, int64_t pid, int fd) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const int theirs = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (theirs < 0) throw std::runtime_error("cannot open " + path);
  struct stat about;
  const int seals = fcntl(theirs, F_GET_SEALS);
  const bool sound = fstat(theirs, &about) == 0 && about.st_size == off_t(sizeof(Block)) && seals >= 0 && (seals & F_SEAL_SHRINK) && (seals & F_SEAL_SEAL);
  void* data = sound ? mmap(nullptr, sizeof(Block), PROT_READ, MAP_SHARED | MAP_NORESERVE, theirs, 0) : MAP_FAILED;
  close(theirs);
  if (data == MAP_FAILED) throw std::runtime_error(path + " is no lane of this version");
  const Block* block = static_cast<const Block*>(data);
  if (block->magic != kMagic) {
    munmap(data, sizeof(Block));
    throw std::runtime_error(path + " is no lane of this version");
  }
  if (peers_.size() <= size_t(rank)) peers_.resize(size_t(rank) + 1, nullptr);
  peers_[size_t(rank)] = block;
  peerRanks_.push_back(rank);
}
#else
Lane::Lane(int rank, int spinNs) : rank_(rank), spinNs_(spinNs) { throw std::runtime_error("no shared memory on this system"); }
Lane::~Lane() {}
void Lane::connect(int, int64_t, int) {}
#endif

int Lane::join(std::vector<int> members, std::vector<int> places, int64_t chunkBytes, int64_t eagerBytes) {
  int me = -1;
  for (size_t i = 0; i < members.size(); i++)
    if (members[i] == rank_) me = int(i);
  for (const int r : members)
    if (!isConnected(r)) throw std::runtime_error("rank " + std::to_string(r) + " is not connected");
  std::lock_guard<std::mutex> lock(progress_);
  channels_.push_back(std::make_unique<Channel>(*this, static_cast<std::vector<int>&&>(members), static_cast<std::vector<int>&&>(places), me, chunkBytes, eagerBytes));
  return int(channels_.size()) - 1;
}

/// Wakes the ranks that sleep on this one. What they wait for is stored already; the full fence of fetch_add orders it before
/// the look at who sleeps, as each sleeper looks once more after saying so.
void Lane::signal() {
  own_->activity.fetch_add(1);
  if (anySleeps(&Block::sleepsOn)) wakeAll(&own_->activity, true);
}

/// The same for the end of a collective, which few wait for: the others are not woken.
void Lane::signalDone() {
  if (!anySleeps(&Block::awaitsDone)) return;
  own_->activity.fetch_add(1);
  wakeAll(&own_->activity, true);
}

bool Lane::anySleeps(std::atomic<uint64_t> (Block::*words)[2]) const {
  const uint64_t bit = uint64_t(1) << (rank_ % 64);
  for (const int r : peerRanks_) {
    const Block& b = *peers_[size_t(r)];
    if (((b.*words)[0].load() | (b.*words)[1].load()) & bit) return true;
  }
  return false;
}

void Lane::admit() {
  if (!hasInbox_.load()) return;
  std::lock_guard<std::mutex> lock(inboxMutex_);
  for (auto& [channel, op] : inbox_) channels_[size_t(channel)]->add(static_cast<std::unique_ptr<Op>&&>(op));
  inbox_.clear();
  hasInbox_ = false;
}

/// With progress_ held.
bool Lane::stepAll(WaitSet& waits) {
  admit();
  waits.clear();
  bool moved = false;
  for (auto& c : channels_) moved = c->step(waits) || moved;
  return moved;
}

/// With progress_ held.
bool Lane::needsHelp() {
  if (hasInbox_.load()) return true;
  for (auto& c : channels_)
    if (!c->failed.load() && c->needsHelp()) return true;
  return false;
}

void Lane::kick() {
  kick_.fetch_add(1);
  wakeAll(&kick_, false);
}

void Lane::post(int channel, std::unique_ptr<Op> op) {
  const bool sends = op->code == Code::send;
  if (progress_.try_lock()) {
    admit();
    WaitSet waits;
    Channel& c = *channels_[size_t(channel)];
    c.add(static_cast<std::unique_ptr<Op>&&>(op));
    // What a sender can leave here now needs no other thread of it later.
    while (c.step(waits) && sends) {}
    const bool help = c.needsHelp();
    progress_.unlock();
    if (help) kick();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(inboxMutex_);
    inbox_.emplace_back(channel, static_cast<std::unique_ptr<Op>&&>(op));
    hasInbox_ = true;
  }
  kick();
}

/// Sleeps on the ranks of `waits`, unless there is something to do after all. Needs progress_ held by the caller's side only
/// where `withKick` is false (the caller of wait, beside whom nobody works).
void Lane::rest(int thread, WaitSet& waits, int64_t ns, bool withKick, uint32_t kickSeen) {
  Watch list[16];
  int count = 0;
  uint64_t mask = 0;
  for (int i = 0; i < waits.count(); i++) {
    const Block& b = *peers_[size_t(waits[i])];
    list[count++] = {&b.activity, b.activity.load(), true};
    mask |= uint64_t(1) << (waits[i] % 64);
  }
  if (withKick) list[count++] = {&kick_, kickSeen, false};
  own_->awaitsDone[thread].store(waits.doneMask);
  own_->sleepsOn[thread].store(mask);
  bool moved;
  WaitSet again;
  if (withKick) {
    std::lock_guard<std::mutex> lock(progress_);
    moved = callerWaits_.load() || stepAll(again);
  } else {
    moved = stepAll(again);
  }
  if (!moved) {
    if (count) sleepOn(list, count, ns);
    else std::this_thread::sleep_for(std::chrono::nanoseconds(ns < 1000000 ? ns : 1000000));
  }
  own_->sleepsOn[thread].store(0);
  own_->awaitsDone[thread].store(0);
}

Lane::Outcome Lane::wait(int channel, uint64_t seq, int64_t ns) {
  Channel& c = *channels_[size_t(channel)];
  if (c.completed.load(std::memory_order_acquire) >= seq) return Outcome::done;
  callerWaits_ = true;
  if (!helperParked_.load()) kick();
  Outcome outcome = Outcome::pending;
  bool help;
  {
    std::lock_guard<std::mutex> lock(progress_);
    WaitSet waits;
    const int64_t end = nowNs() + ns;
    int64_t idleSince = 0;
    for (;;) {
      const bool moved = stepAll(waits);
      if (c.completed.load(std::memory_order_relaxed) >= seq) {
        outcome = Outcome::done;
        break;
      }
      if (c.failed.load() || hasFailed()) {
        outcome = c.failed.load() ? Outcome::trouble : Outcome::failed;
        break;
      }
      if (moved) {
        idleSince = 0;
        continue;
      }
      const int64_t now = nowNs();
      if (now >= end) break;
      if (idleSince == 0) idleSince = now;
      if (now - idleSince < spinNs_) {
        for (int i = 0; i < 8; i++) pauseCore();
        continue;
      }
      rest(0, waits, end - now, false, 0);
    }
    help = needsHelp();
  }
  callerWaits_ = false;
  if (help) kick();
  return outcome;
}

bool Lane::isDone(int channel, uint64_t seq) {
  Channel& c = *channels_[size_t(channel)];
  if (c.completed.load(std::memory_order_acquire) >= seq || c.failed.load() || hasFailed()) return true;
  if (progress_.try_lock()) {
    WaitSet waits;
    stepAll(waits);
    progress_.unlock();
  }
  return c.completed.load(std::memory_order_acquire) >= seq;
}

std::vector<int> Lane::absent(int channel, uint64_t seq) {
  std::lock_guard<std::mutex> lock(progress_);
  return channels_[size_t(channel)]->absent(seq);
}

void Lane::cancel() {
  cancelled_ = true;
  std::lock_guard<std::mutex> lock(progress_);
  admit();
  for (auto& c : channels_) c->clear();
}

void Lane::help() {
  constexpr int64_t kNap = 50 * 1000000, kSpin = 5000;
  int64_t idleSince = 0;
  while (!stop_.load()) {
    const uint32_t seen = kick_.load();
    WaitSet waits;
    bool moved = false, wanted = false;
    if (!callerWaits_.load() && !hasFailed()) {
      std::lock_guard<std::mutex> lock(progress_);
      if (!callerWaits_.load()) {
        moved = stepAll(waits);
        wanted = needsHelp();
      }
    }
    if (moved) {
      idleSince = 0;
      continue;
    }
    if (!wanted) {
      helperParked_ = true;
      if (!stop_.load()) {
        const Watch watch{&kick_, seen, false};
        sleepOn(&watch, 1, int64_t(3600) * 1000000000);
      }
      helperParked_ = false;
      idleSince = 0;
      continue;
    }
    const int64_t now = nowNs();
    if (idleSince == 0) idleSince = now;
    if (now - idleSince < kSpin) {
      for (int i = 0; i < 8; i++) pauseCore();
      continue;
    }
    rest(1, waits, kNap, true, seen);
  }
}

}  // namespace fp8lm::lane
