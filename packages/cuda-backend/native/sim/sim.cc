// The scheduler of the simulated device (sim.h): which thread runs next, barriers, warp operations, shared memory.
#include "sim.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

#include "access.h"
#include "fiber.h"
#include "races.h"

namespace fp8lm::sim {

Dim3 threadIndex, blockIndex, blockSize, gridSize;
bool recording = false;
size_t dynamicBytes = 0;

namespace {

constexpr int kMaxThreads = 1024, kWarpSize = 32, kLaneBytes = 64;

enum class State : uint8_t { fresh, ready, atBarrier, atWarp, done };

struct Thread {
  State state;
  int8_t parity;  // which of the warp's two buffers its next operation uses
  Fiber* fiber;
  const char* file;
  int line;
};

/// What the lanes of a warp brought to the operation they wait at. Two, since a lane may bring the next value before a slower
/// one has read the last.
struct WarpBuffer {
  unsigned arrived, mask;
  int line;
  alignas(16) unsigned char data[kWarpSize * kLaneBytes];
};

/// The copies that a thread has asked for, in groups; the last one is open.
using Copies = std::deque<std::vector<std::function<void()>>>;

struct Shared {
  const void* key;
  size_t offset, bytes;
};

struct Device {
  const char* kernel = "";
  const std::function<void()>* body = nullptr;
  int threads = 0, current = -1, numDone = 0, numWaiting = 0;
  std::vector<Thread> thread = std::vector<Thread>(kMaxThreads);
  std::vector<WarpBuffer> warps = std::vector<WarpBuffer>(2 * kMaxThreads / kWarpSize);
  std::vector<Copies> copies = std::vector<Copies>(kMaxThreads);
  bool asked = false, agreed = false;  // what barrierOr brings together, and what came of it at the last barrier
  std::vector<int> order;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  Fiber* running = nullptr;
  int next = 0;  // in `order`: the first thread that has not begun
  std::vector<Shared> shared;
  std::vector<unsigned char> arena = std::vector<unsigned char>(256 << 10);
  size_t used = 0;
  std::exception_ptr fault;
  uint64_t random = 1;
};

Device& device() {
  static Device* d = new Device;
  return *d;
}

uint64_t nextRandom(Device& d) {
  d.random ^= d.random << 13;
  d.random ^= d.random >> 7;
  d.random ^= d.random << 17;
  return d.random;
}

void shuffleOrder(Device& d, std::vector<int>& v) {
  for (size_t i = v.size(); i > 1; i--) std::swap(v[i - 1], v[nextRandom(d) % i]);
}

void select(Device& d, int t) {
  d.current = t;
  threadIndex = {unsigned(t) % blockSize.x, unsigned(t) / blockSize.x % blockSize.y, unsigned(t) / (blockSize.x * blockSize.y)};
}

/// What a fiber does: begins threads, one after the other, until one of them waits for longer than others have to begin.
/// A thread that waits keeps the fiber; the scheduler goes on with another.
void fiberBody(void*) {
  Device& d = device();
  while (d.next < d.threads && !d.fault) {
    const int t = d.order[size_t(d.next++)];
    select(d, t);
    d.thread[size_t(t)].state = State::ready;
    d.thread[size_t(t)].fiber = d.running;
    Fiber* const own = d.running;
    try {
      (*d.body)();
    } catch (...) {
      d.fault = std::current_exception();
    }
    d.running = own;
    d.thread[size_t(d.current)].state = State::done;
    d.numDone++;
    if (d.thread[size_t(d.current)].parity >= 2) break;  // it has waited: others are under way, leave the choice to the scheduler
  }
  d.idle.push_back(d.running);
}

Fiber* idleFiber(Device& d) {
  if (d.idle.empty()) {
    d.fibers.push_back(std::make_unique<Fiber>());
    d.idle.push_back(d.fibers.back().get());
  }
  Fiber* const f = d.idle.back();
  d.idle.pop_back();
  return f;
}

std::string threadName(const Device& d, int t) {
  std::string s = std::to_string(unsigned(t) % blockSize.x);
  if (blockSize.y * blockSize.z > 1) s += "," + std::to_string(unsigned(t) / blockSize.x % blockSize.y) + "," + std::to_string(unsigned(t) / (blockSize.x * blockSize.y));
  (void)d;
  return s;
}

/// Nobody can go on: says who waits where.
[[noreturn]] void divergent(Device& d) {
  std::string what;
  for (int t = 0; t < d.threads; t++) {
    const Thread& th = d.thread[size_t(t)];
    if (th.state != State::atBarrier && th.state != State::atWarp) continue;
    d.current = t;
    select(d, t);
    const char* const slash = std::strrchr(th.file, '/');
    what = std::string(th.state == State::atBarrier ? "divergent barrier: thread waits at __syncthreads in " : "divergent warp: thread waits at a warp operation in ") +
           (slash ? slash + 1 : th.file) + ":" + std::to_string(th.line);
    break;
  }
  int ended = 0, elsewhere = -1;
  const Thread& first = d.thread[size_t(d.current)];
  for (int t = 0; t < d.threads; t++) {
    const Thread& th = d.thread[size_t(t)];
    if (th.state == State::done) ended++;
    else if (elsewhere < 0 && (th.state != first.state || th.line != first.line || std::strcmp(th.file, first.file) != 0)) elsewhere = t;
  }
  if (elsewhere >= 0) what += ", thread " + threadName(d, elsewhere) + " at line " + std::to_string(d.thread[size_t(elsewhere)].line);
  else what += ", but " + std::to_string(ended) + " of " + std::to_string(d.threads) + " threads have ended";
  fail(what);
}

void runBlock(Device& d) {
  d.numDone = d.numWaiting = 0;
  d.next = 0;
  d.shared.clear();
  d.used = 0;
  d.asked = false;
  for (int t = 0; t < d.threads; t++) d.copies[size_t(t)].assign(1, {});
  for (int t = 0; t < d.threads; t++) d.thread[size_t(t)] = {State::fresh, 0, nullptr, "", 0};
  for (int w = 0; w < 2 * ((d.threads + kWarpSize - 1) / kWarpSize); w++) d.warps[size_t(w)].arrived = 0;
  if (options().races) shuffleOrder(d, d.order);
  while (d.numDone < d.threads) {
    bool moved = false;
    if (d.next < d.threads) {
      d.running = idleFiber(d);
      d.running->start(fiberBody, nullptr);
      d.running->resume();
      moved = true;
    } else {
      for (int i = 0; i < d.threads && !d.fault; i++) {
        const int t = d.order[size_t(i)];
        Thread& th = d.thread[size_t(t)];
        if (th.state != State::ready) continue;
        select(d, t);
        d.running = th.fiber;
        moved = true;
        th.fiber->resume();
      }
    }
    if (d.fault) std::rethrow_exception(d.fault);
    if (!moved) divergent(d);
  }
}

/// The running thread waits until it is made ready again.
void wait(Device& d, State state, const char* file, int line) {
  const int t = d.current;
  Thread& th = d.thread[size_t(t)];
  th.state = state;
  th.file = file;
  th.line = line;
  if (th.parity < 2) th.parity = int8_t(th.parity + 2);  // marks that it has waited
  Fiber* const own = d.running;
  own->yield();
  d.running = own;
}

}  // namespace

Options& options() {
  static Options* o = new Options;
  return *o;
}

std::string where() {
  const Device& d = device();
  if (d.current < 0) return "";
  std::string block = std::to_string(blockIndex.x);
  if (gridSize.y * gridSize.z > 1) block += "," + std::to_string(blockIndex.y) + "," + std::to_string(blockIndex.z);
  return std::string(d.kernel) + ", block " + block + ", thread " + threadName(d, d.current);
}

void fail(const std::string& what) {
  const std::string at = where();
  throw Fault(at.empty() ? what : at + ": " + what);
}

void outOfBounds(const char* name, int64_t index, int64_t size, size_t count) {
  fail(std::string("out of bounds: ") + name + "[" + std::to_string(index) + "]" +
       (count > 1 ? " and the next " + std::to_string(count - 1) : "") + ", but it has " + std::to_string(size) + " elements");
}

void misaligned(const char* name, int64_t index, const void* address, size_t wanted) {
  fail(std::string("misaligned: ") + name + "[" + std::to_string(index) + "] lies " +
       std::to_string(reinterpret_cast<uintptr_t>(address) % wanted) + " bytes after a multiple of " + std::to_string(wanted));
}

int lane() { return device().current % kWarpSize; }

void barrier(const char* file, int line) {
  Device& d = device();
  if (d.threads == 1) {
    d.agreed = d.asked;
    d.asked = false;
    return nextInterval();
  }
  // Everyone is at a barrier: check that it is the same one, and let all go.
  if (d.numWaiting + 1 == d.threads) {
    for (int t = 0; t < d.threads; t++) {
      Thread& th = d.thread[size_t(t)];
      if (t == d.current) continue;
      if (th.state != State::atBarrier || th.line != line || std::strcmp(th.file, file) != 0) {
        fail("divergent barrier: thread waits at __syncthreads in line " + std::to_string(line) + ", thread " + threadName(d, t) +
             " in line " + std::to_string(th.line));
      }
    }
    for (int t = 0; t < d.threads; t++)
      if (t != d.current) d.thread[size_t(t)].state = State::ready;
    d.numWaiting = 0;
    d.agreed = d.asked;
    d.asked = false;
    nextInterval();
    if (options().races) {
      shuffleOrder(d, d.order);
      d.next = d.threads;
      d.thread[size_t(d.current)].state = State::ready;
      // The last to arrive does not go on first either.
      Thread& th = d.thread[size_t(d.current)];
      if (th.parity < 2) th.parity = int8_t(th.parity + 2);
      Fiber* const own = d.running;
      own->yield();
      d.running = own;
    }
    return;
  }
  d.numWaiting++;
  wait(d, State::atBarrier, file, line);
}

bool barrierOr(bool p, const char* file, int line) {
  Device& d = device();
  d.asked = d.asked || p;
  barrier(file, line);
  return d.agreed;  // the next barrier is not over before this thread has reached it
}

void copyLater(std::function<void()> copy) {
  Device& d = device();
  d.copies[size_t(d.current)].back().push_back(std::move(copy));
}
void endCopies() {
  Device& d = device();
  d.copies[size_t(d.current)].emplace_back();
}
void waitCopies(int groups) {
  Device& d = device();
  Copies& all = d.copies[size_t(d.current)];
  while (int(all.size()) > groups + 1) {
    for (const auto& copy : all.front()) copy();
    all.pop_front();
  }
}

const unsigned char* exchange(unsigned mask, const void* mine, size_t size, int line) {
  Device& d = device();
  const int t = d.current, warp = t / kWarpSize, l = t % kWarpSize;
  if (size > kLaneBytes) fail("a warp operation of " + std::to_string(size) + " bytes a lane");
  if (!(mask >> l & 1u)) fail("a warp operation whose mask leaves out lane " + std::to_string(l) + ", which runs it");
  const int lanes = std::min(kWarpSize, d.threads - warp * kWarpSize);
  if (lanes < kWarpSize && mask >> lanes) fail("a warp operation of lanes that the block does not have");
  Thread& th = d.thread[size_t(t)];
  WarpBuffer& b = d.warps[size_t(2 * warp + (th.parity & 1))];
  if (b.arrived == 0) {
    b.mask = mask;
    b.line = line;
  } else if (b.mask != mask || b.line != line) {
    fail("divergent warp: lanes meet at line " + std::to_string(b.line) + " and line " + std::to_string(line));
  }
  if (size) std::memcpy(b.data + kLaneBytes * l, mine, size);
  b.arrived |= 1u << l;
  th.parity ^= 1;
  if (b.arrived != mask) {
    wait(d, State::atWarp, "", line);
    return b.data;
  }
  b.arrived = 0;
  nextWarpInterval(warp);
  for (int k = 0; k < lanes; k++)
    if (k != l && (mask >> k & 1u)) d.thread[size_t(warp * kWarpSize + k)].state = State::ready;
  return b.data;
}

void* shared(const void* key, size_t bytes) {
  Device& d = device();
  for (const Shared& s : d.shared)
    if (s.key == key) return d.arena.data() + s.offset;
  const size_t offset = (d.used + 15) / 16 * 16;
  if (offset + bytes > (227 << 10)) fail("more than 227 KB of shared memory");
  d.used = offset + bytes;
  d.shared.push_back({key, offset, bytes});
  std::memset(d.arena.data() + offset, 0xff, bytes);  // NaN, or a huge count: who reads before writing sees it
  return d.arena.data() + offset;
}

void record(const void* address, Access kind, const char* name, int64_t index) {
  Device& d = device();
  const auto* const at = static_cast<const unsigned char*>(address);
  const bool shared = at >= d.arena.data() && at < d.arena.data() + d.arena.size();
  if (d.current >= 0) recordAccess(address, kind, name, index, d.current, shared);
}

void acquire() { nextEpoch(); }

void run(const char* name, Dim3 grid, Dim3 block, const std::function<void()>& body) {
  Device& d = device();
  const int64_t threads = int64_t(block.x) * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads) throw Fault(std::string(name) + ": a block of " + std::to_string(threads) + " threads");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) throw Fault(std::string(name) + ": an impossible grid");
  d.kernel = name;
  d.body = &body;
  d.threads = int(threads);
  d.fault = nullptr;
  gridSize = grid;
  blockSize = block;
  d.order.resize(size_t(threads));
  for (int i = 0; i < d.threads; i++) d.order[size_t(i)] = i;
  recording = options().races;
  if (recording) {
    beginLaunch();
    d.random = options().seed * 0x9e3779b97f4a7c15u | 1;
  }
  const int64_t blocks = int64_t(grid.x) * grid.y * grid.z;
  std::vector<int> blockOrder;
  if (recording && blocks > 1) {
    for (int i = 0; i < int(blocks); i++) blockOrder.push_back(i);
    shuffleOrder(d, blockOrder);
  }
  try {
    for (int64_t i = 0; i < blocks; i++) {
      const unsigned at = blockOrder.empty() ? unsigned(i) : unsigned(blockOrder[size_t(i)]);
      blockIndex = {at % grid.x, at / grid.x % grid.y, at / (grid.x * grid.y)};
      beginBlock(int(at));
      runBlock(d);
    }
  } catch (...) {
    d.current = -1;
    recording = false;
    d.idle.clear();  // fibers that were left waiting start anew
    for (auto& f : d.fibers) d.idle.push_back(f.get());
    throw;
  }
  d.current = -1;
  recording = false;
}

}  // namespace fp8lm::sim
