// Collectives and sends of ranks on one machine through shared memory (comm_shared.h), without sockets and comm worker.
//
// Each member announces a call in an entry of its block: what it calls, its scales, and up to kEagerBytes of data; all compare
// before anything else is read. Small collectives end there: each rank sums all members' data itself, in member order. Large
// ones go in rounds of one chunk a share: a rank copies its parts of the others' shares into its block, sums its own share out
// of the others' blocks, publishes the sum, and copies the others' sums. Each element is rounded by one rank only.
//
// Whoever waits does the work: the caller inside `wait`; while it computes, a helper thread, which sleeps when there is nothing
// that other ranks could need from this one. Collectives of a group run in order; groups do not wait for each other.
#pragma once
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm_op.h"
#include "comm_shared.h"
#include "comm_sleep.h"

namespace fp8lm::lane {

/// Why a channel stands still for good.
struct Trouble {
  int member = -1;
  bool mismatch = false;  // it called something else: `head` is what; otherwise `text` says what it did
  unsigned char head[kHeadBytes] = {};
  std::string text;
};

/// Ranks that something waits for, at most one a stage.
class WaitSet {
 public:
  void clear() { count_ = 0, doneMask = 0; }
  void add(int rank) {
    for (int i = 0; i < count_; i++)
      if (ranks_[i] == rank) return;
    if (count_ < kMost) ranks_[count_++] = rank;
  }
  int count() const { return count_; }
  int operator[](int i) const { return ranks_[i]; }
  /// Those that must finish a collective, as bits.
  uint64_t doneMask = 0;

 private:
  static constexpr int kMost = 12;
  int ranks_[kMost], count_ = 0;
};

class Lane;

/// One group of a lane.
class Channel {
 public:
  Channel(Lane& lane, std::vector<int> members, std::vector<int> places, int me, int64_t chunkBytes, int64_t eagerBytes);

  /// Does what can be done now, at most a round's worth; true if anything was done.
  bool step(WaitSet& waits);
  void add(std::unique_ptr<Op> op) { queue_.push_back(static_cast<std::unique_ptr<Op>&&>(op)); }
  void clear() { queue_.clear(); }
  /// Operations that need this rank to act although its caller does not wait.
  bool needsHelp() const;
  /// Members that have not announced operation `seq`; empty if it is not under way.
  std::vector<int> absent(uint64_t seq) const;

  std::atomic<uint64_t> completed{0};
  std::atomic<bool> failed{false};
  Trouble trouble;
  const std::vector<int> members;
  const int me, size;
  int64_t eagerBytes;

 private:
  const ChannelBlock& of(int member) const { return *blocks_[size_t(member)]; }
  /// True if all other members' counter is at least `value`; else notes whom to wait for.
  bool allAt(std::atomic<uint64_t> ChannelBlock::*counter, uint64_t value, WaitSet& waits) const;
  void publish(std::atomic<uint64_t> ChannelBlock::*counter, uint64_t value);
  bool announce(Op& op, WaitSet& waits);
  bool meet(Op& op, WaitSet& waits);
  bool fail(int member, const unsigned char* head, const char* text);
  void begin(Op& op);
  bool advance(Op& op, WaitSet& waits);
  void finishEager(Op& op);
  void give(Op& op);
  void use(Op& op);
  void offer(Op& op);
  void take(Op& op);
  const char* eagerData(const Op& op, int member) const;
  /// Sums [begin, end), which lies in `owner`'s share; parts[i] points to member i's element `begin`, null for this rank's own.
  void sum(Op& op, int64_t begin, int64_t end, int owner, const char* const* parts, bool rescale, char* result);
  void copyOut(Op& op, int64_t begin, int64_t end, const char* from, const double* ratios);
  void readIn(Op& op, int64_t begin, int64_t end, char* to);
  char* partOf(const ChannelBlock& block, int from, int to, uint64_t round) const;
  void range(const Op& op, int member, int64_t round, int64_t* begin, int64_t* end) const;

  Lane& lane_;
  std::vector<const ChannelBlock*> blocks_;
  ChannelBlock* own_;
  int64_t chunkBytes_;
  uint64_t partBase_ = 0, resultBase_ = 0;
  std::deque<std::unique_ptr<Op>> queue_;
  std::vector<std::vector<char>> scratch_;
};

class Lane {
 public:
  /// Makes this rank's block. @throws std::runtime_error
  Lane(int rank, int spinNs);
  ~Lane();

  int fd() const { return fd_; }
  int rank() const { return rank_; }
  /// Maps the block of another process of this user. @throws std::runtime_error
  void connect(int rank, int64_t pid, int fd);
  bool isConnected(int rank) const { return rank == rank_ || (size_t(rank) < peers_.size() && peers_[size_t(rank)]); }
  int join(std::vector<int> members, std::vector<int> places, int64_t chunkBytes, int64_t eagerBytes);
  Channel& channel(int id) { return *channels_[size_t(id)]; }
  size_t numChannels() const { return channels_.size(); }

  void post(int channel, std::unique_ptr<Op> op);
  enum class Outcome { done, pending, failed, trouble };
  /// Works and sleeps until operation `seq` is done, at most `ns`.
  Outcome wait(int channel, uint64_t seq, int64_t ns);
  bool isDone(int channel, uint64_t seq);
  std::vector<int> absent(int channel, uint64_t seq);
  /// Forgets all operations; nothing of theirs is touched afterwards.
  void cancel();
  /// A word that is not 0 once this rank's communication has failed.
  void watch(const int32_t* failed) { failWord_ = failed; }

  std::atomic<uint64_t> sent{0}, received{0};

 private:
  friend class Channel;
  bool hasFailed() const { return cancelled_.load() || (failWord_ && __atomic_load_n(failWord_, __ATOMIC_ACQUIRE) != 0); }
  bool stepAll(WaitSet& waits);
  void admit();
  bool needsHelp();
  void kick();
  void help();
  void rest(int thread, WaitSet& waits, int64_t ns, bool withKick, uint32_t kickSeen);
  void signal();
  void signalDone();
  bool anySleeps(std::atomic<uint64_t> (Block::*words)[2]) const;

  const int rank_, spinNs_;
  int fd_ = -1;
  Block* own_ = nullptr;
  std::vector<const Block*> peers_;
  std::vector<int> peerRanks_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::mutex progress_, inboxMutex_;
  std::vector<std::pair<int, std::unique_ptr<Op>>> inbox_;
  std::atomic<bool> hasInbox_{false};
  std::atomic<uint32_t> kick_{0};
  std::atomic<bool> callerWaits_{false}, helperParked_{false}, stop_{false}, cancelled_{false};
  const int32_t* failWord_ = nullptr;
  std::thread helper_;
};

}  // namespace fp8lm::lane
