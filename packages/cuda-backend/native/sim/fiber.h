// Fibers: a stack and a saved stack pointer. `resume` runs a fiber until it yields or its function ends. By hand on x86-64
// (20 instructions a switch); through ucontext elsewhere.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fp8lm::sim {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Prepares to run `body(argument)` from its start, whatever the fiber did before.
  void start(void (*body)(void*), void* argument);
  /// From the scheduler: runs until the fiber yields or ends.
  void resume();
  /// From inside the fiber: back to who resumed it.
  void yield();

 private:
  static void enter(Fiber* self);
  static void trampoline();
  void* stack_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
#if defined(__x86_64__)
  void* own_ = nullptr;
  void* caller_ = nullptr;
#else
  ucontext_t own_, caller_;
#endif
};

}  // namespace fp8lm::sim
