// A simulated CUDA device: runs the kernels of this package on the CPU, one thread of one block at a time.
//
// The idea. A block's threads are fibers. A thread runs until it ends or waits (barrier, warp operation); then the next one
// runs. A thread that never waits costs no fiber of its own. Because one thread runs at a time there is no data race between
// host threads, and every run is the same; because each access goes through Ptr or Shared (access.h), each is checked:
//
//   out of bounds, misaligned   always: named with kernel, block, thread, tensor and element
//   divergent barriers          always: threads that wait at different barriers, or at one that others never reach
//   races                       in race mode: two accesses to one element by two threads of a launch, one of them a write,
//                               with nothing between that orders them; and threads and blocks run in a shuffled order
//
// What it leaves out: speed, caches, memory ordering weaker than program order, and what only real parallelism can show.
// It proves logic. No figure from it says anything about the speed of a chip.
#pragma once
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace fp8lm::sim {

struct Dim3 {
  unsigned x, y, z;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/// What a kernel did wrong; the message names kernel, block and thread.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  bool races = false;    // look for races, shuffle the order of threads and blocks
  uint64_t seed = 1;     // of the order
};
Options& options();

/// Runs a kernel to its end. `body` is one thread. @throws Fault
void run(const char* name, Dim3 grid, Dim3 block, const std::function<void()>& body);

/// Of the running thread.
extern Dim3 threadIndex, blockIndex, blockSize, gridSize;
/// "kernel, block 3, thread 17"; empty when none runs.
std::string where();

void barrier(const char* file, int line);
/// The same; true in all threads if any of them brings `p`.
bool barrierOr(bool p, const char* file, int line);
/// Waits for all lanes of `mask` at this place, each bringing `size` bytes; the bytes of lane l are then at result + 64 l.
const unsigned char* exchange(unsigned mask, const void* mine, size_t size, int line);
/// The running thread's lane.
int lane();

/// The block's shared array of this declaration; poisoned when the block starts.
void* shared(const void* key, size_t bytes);

/// Bytes of the running launch's dynamic array.
extern size_t dynamicBytes;

/// Asynchronous copies of the running thread. They are done when it waits for their group: until all but the last `groups` are.
void copyLater(std::function<void()> copy);
void endCopies();
void waitCopies(int groups);

enum class Access { read, write, atomic };
/// Race mode: records an access of the running thread, throws where it conflicts with an earlier one.
void record(const void* address, Access kind, const char* name, int64_t index);
/// Everything that other blocks wrote so far is ordered before what this block does from now on.
void acquire();
[[noreturn]] void fail(const std::string& what);

}  // namespace fp8lm::sim
