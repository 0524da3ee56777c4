// One parallel region that runs a list of tasks, in order, as threads become free.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include "operators.h"

namespace frs::cpu {

// body(i) once for each i in [0, count). The tasks start in order.
template <class Body>
void run_tasks(int64_t count, const Threads& threads, const Body& body) {
  struct Context {
    const Body& body;
    int64_t count;
    std::atomic<int64_t> next{0};
  } context{body, count};
  const int workers = static_cast<int>(std::min<int64_t>(count, threads.count));
  if (workers == 0) return;
  threads.run(
      workers,
      [](void* p) {
        auto& c = *static_cast<Context*>(p);
        for (int64_t i; (i = c.next.fetch_add(1, std::memory_order_relaxed)) < c.count;) c.body(i);
      },
      &context);
}

// Lets tasks wait for tasks before them in the list. Those have started when a later one does, so there is no
// deadlock, however few threads run.
class Latch {
 public:
  void expect(int64_t tasks) { left_.fetch_add(tasks, std::memory_order_relaxed); }  // before they start
  bool count_down() { return left_.fetch_sub(1, std::memory_order_acq_rel) == 1; }   // true for the last task
  void open() { open_.store(true, std::memory_order_release); }
  void wait() const {
    while (!open_.load(std::memory_order_acquire)) std::this_thread::yield();
  }

 private:
  std::atomic<int64_t> left_{0};
  std::atomic<bool> open_{false};
};

// body(begin, length) over [0, total) in steps of `size`. The last one may be shorter.
template <class Body>
void split(int64_t total, int64_t size, const Body& body) {
  for (int64_t begin = 0; begin < total; begin += size) body(begin, std::min(size, total - begin));
}

}  // namespace frs::cpu
