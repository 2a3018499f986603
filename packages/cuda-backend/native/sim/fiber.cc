#include "fiber.h"

#include <cstdint>
#include <cstdlib>
#include <new>

namespace fp8lm::sim {

constexpr size_t kStack = 256 << 10;  // pages that a kernel does not touch are never made

#if defined(__x86_64__)

// Saves what a called function must preserve, swaps stacks, restores.
extern "C" void fp8_sim_switch(void** save, void* load);
asm(R"(
.text
.globl fp8_sim_switch
.hidden fp8_sim_switch
.type fp8_sim_switch,@function
fp8_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fp8_sim_switch,.-fp8_sim_switch
)");

static Fiber* starting;

void Fiber::trampoline() {
  Fiber* const self = starting;
  enter(self);
}

void Fiber::start(void (*body)(void*), void* argument) {
  body_ = body;
  argument_ = argument;
  auto* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack_) + kStack);
  *--top = 0;                                              // where a return of the trampoline would go: never
  *--top = reinterpret_cast<uint64_t>(&Fiber::trampoline);  // stack is 16-aligned + 8 at its entry, as after a call
  for (int i = 0; i < 6; i++) *--top = 0;
  own_ = top;
}

void Fiber::resume() {
  starting = this;
  fp8_sim_switch(&caller_, own_);
}

void Fiber::yield() { fp8_sim_switch(&own_, caller_); }

#else

void Fiber::trampoline() {}

void Fiber::start(void (*body)(void*), void* argument) {
  body_ = body;
  argument_ = argument;
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kStack;
  own_.uc_link = nullptr;
  static Fiber* self;
  self = this;
  makecontext(&own_, reinterpret_cast<void (*)()>(+[] { enter(self); }), 0);
}

void Fiber::resume() { swapcontext(&caller_, &own_); }
void Fiber::yield() { swapcontext(&own_, &caller_); }

#endif

Fiber::Fiber() : stack_(std::aligned_alloc(4096, kStack)) {
  if (!stack_) throw std::bad_alloc();
}
Fiber::~Fiber() { std::free(stack_); }

void Fiber::enter(Fiber* self) {
  self->body_(self->argument_);
  self->yield();
  std::abort();  // nobody resumes a fiber that ended
}

}  // namespace fp8lm::sim
