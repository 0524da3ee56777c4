// The emulator that cuda_shim/cuda_runtime.h declares: one fiber per thread of a block.
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;
extern "C" {
int emulated_launches = 0;
}

namespace emulator {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kWarp = 32, kThreads = 256;

struct Copy {
  void* target;
  const void* source;
  size_t size;
};

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  std::unique_ptr<char[]> stack;  // allocated when the fiber runs for the first time
  jmp_buf resume;
  State state = State::done;
  uint64_t deposits[2] = {};  // of even and odd shuffles: a slower lane may still read the previous one
  unsigned shuffles = 0;
  std::deque<std::vector<Copy>> groups;  // of copies in flight, the newest last
};

std::mutex one_launch;
std::vector<Fiber> fibers;
jmp_buf scheduler;
unsigned current = 0;
const std::function<void()>* body = nullptr;

// AddressSanitizer has to know which stack is in use: it is told before a jump to another one and after it.
struct Stack {
  const void* bottom = nullptr;
  size_t size = 0;
};
Stack stack_of_scheduler;

void leave_for([[maybe_unused]] const Stack& stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, stack.bottom, stack.size);
#endif
}

void arrive_from([[maybe_unused]] Stack& stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &stack.bottom, &stack.size);
#endif
}

void wait(State state) {
  fibers[current].state = state;
  if (_setjmp(fibers[current].resume) == 0) {
    leave_for(stack_of_scheduler);
    _longjmp(scheduler, 1);
  }
  arrive_from(stack_of_scheduler);
}

void run_blocks() {  // one iteration per block
  arrive_from(stack_of_scheduler);
  for (;;) {
    (*body)();
    wait(State::done);
  }
}

// Runs a fiber until it waits. A context only starts the fiber, because switching contexts takes system
// calls.
void resume(Fiber& fiber) {
  Stack left;
  if (_setjmp(scheduler) != 0) return arrive_from(left);
  const bool started = fiber.stack != nullptr;
  if (!started) fiber.stack.reset(new char[kStack]);
  leave_for({fiber.stack.get(), kStack});
  if (started) _longjmp(fiber.resume, 1);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStack;
  makecontext(&context, run_blocks, 0);
  setcontext(&context);
}

void start(Fiber& fiber) {
  fiber.state = State::ready;
  fiber.shuffles = 0;
  fiber.groups.assign(1, {});
}

// Makes the fibers of [begin, end) ready if all of them that are not done wait in `state`.
bool release(State state, unsigned begin, unsigned end) {
  bool any = false;
  for (unsigned i = begin; i < end; ++i) {
    if (fibers[i].state != state && fibers[i].state != State::done) return false;
    any |= fibers[i].state == state;
  }
  for (unsigned i = begin; i < end; ++i) {
    if (fibers[i].state == state) fibers[i].state = State::ready;
  }
  return any;
}

// The order of the fibers is reversed each time, so that a race shows in the results.
void run_block() {
  for (Fiber& fiber : fibers) start(fiber);
  for (unsigned turn = blockIdx.x + blockIdx.y;; ++turn) {
    bool ran = false;
    for (unsigned n = 0; n < kThreads; ++n) {
      const unsigned i = turn % 2 ? kThreads - 1 - n : n;
      if (fibers[i].state != State::ready) continue;
      current = i;
      threadIdx = {i, 0, 0};
      resume(fibers[i]);
      ran = true;
    }
    bool released = release(State::at_block_barrier, 0, kThreads);
    for (unsigned warp = 0; warp < kThreads; warp += kWarp) {
      released |= release(State::at_warp_barrier, warp, warp + kWarp);
    }
    if (ran || released) continue;
    for (const Fiber& fiber : fibers) {
      if (fiber.state == State::done) continue;
      fprintf(stderr, "deadlock: threads of block %u wait for threads that never arrive\n", blockIdx.x);
      abort();
    }
    return;
  }
}

}  // namespace

void run(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(one_launch);
  ++emulated_launches;
  if (fibers.empty()) fibers = std::vector<Fiber>(kThreads);  // never resized: their stacks are in use
  if (block.x != kThreads) abort();
  body = &kernel;
  gridDim = grid;
  blockDim = block;
  for (uint32_t i = 0; i < grid.x * grid.y; ++i) {
    blockIdx = {i % grid.x, i / grid.x, 0};
    run_block();
  }
}

void block_barrier() { wait(State::at_block_barrier); }

uint64_t exchange(uint64_t value, unsigned mask) {
  const unsigned self = current, turn = fibers[self].shuffles++ % 2;
  fibers[self].deposits[turn] = value;
  wait(State::at_warp_barrier);
  return fibers[self ^ mask].deposits[turn];
}

void copy_later(void* target, const void* source, size_t size) {
  memset(target, 0xFF, size);  // NaN in every type
  fibers[current].groups.back().push_back({target, source, size});
}

void commit_copies() { fibers[current].groups.emplace_back(); }

void wait_for_copies(unsigned groups_left) {
  auto& groups = fibers[current].groups;
  while (groups.size() > groups_left + 1) {  // the last group is still open
    for (const Copy& copy : groups.front()) memcpy(copy.target, copy.source, copy.size);
    groups.pop_front();
  }
}

}  // namespace emulator
