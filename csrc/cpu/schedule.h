// How work is cut into units and handed to threads: one parallel region, one atomic counter over all levels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#include "isa.h"

namespace frs::cpu {

// One image's channels x locations of one tensor pair of one level.
struct Range {
  int level = 0;
  int64_t image = 0;
  int64_t channel = 0, channels = 0;
  int64_t location = 0, locations = 0;
};

// body(i) for i in [0, count), each once, in the order of i as threads become free.
template <class Body>
void run_units(int64_t count, const Threads& threads, const Body& body) {
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

// A number of units that others wait for. Whoever waits holds a later unit than all of these, so running
// threads have taken them already: there is no deadlock, however few threads run.
class Countdown {
 public:
  void start(int64_t count) { left_.store(count, std::memory_order_relaxed); }
  bool finish_one() { return left_.fetch_sub(1, std::memory_order_acq_rel) == 1; }  // true for the last one
  void open() { open_.store(true, std::memory_order_release); }
  void wait() const {
    while (!open_.load(std::memory_order_acquire)) std::this_thread::yield();
  }

 private:
  std::atomic<int64_t> left_{0};
  std::atomic<bool> open_{false};
};

// piece(begin, length) over [0, total) in lengths of `size`, the last one shorter.
template <class Piece>
void cut(int64_t total, int64_t size, const Piece& piece) {
  for (int64_t begin = 0; begin < total; begin += size) piece(begin, std::min(size, total - begin));
}

inline int64_t runs_of(int64_t locations) { return ceil_div(locations, kRun); }

// A pass over all channels (mask, single): units of whole runs, whose number may follow the threads, because
// sums are taken over runs. Long rows stream best; all threads need something to do, as much as each other.
inline int64_t locations_per_pass(const Level& level, bool channel_major, int threads) {
  if (channel_major) return kRun;
  constexpr int64_t kUnits = 2,
                    kMaxRuns = kMaxMaskTile / kRun;  // units a thread at least, runs a unit at most
  const int64_t runs = level.batch * runs_of(level.locations);
  const int64_t units = threads * std::max(kUnits, ceil_div(runs, threads * kMaxRuns));
  return kRun * std::clamp<int64_t>(ceil_div(runs, units), 1, kMaxRuns);
}

// A pass with gradients: units of whole segments of kMaxLogFactors channels, each with a sum of its own, so
// that their length may follow the threads: whole rows, which lie in memory one after another, where there
// are few. In channels_last a unit has one sum, and must not follow them.
struct Tile {
  int64_t channels, locations;
};
inline Tile tile_of(int64_t batch, int64_t channels, int64_t locations, bool channel_major, int threads) {
  constexpr int64_t kElements = 1 << 16;  // of a channels_last unit
  constexpr int64_t kUnits = 4;           // others a thread
  if (channel_major)
    return {std::max<int64_t>(channels, 1), std::max<int64_t>(1, kElements / std::max<int64_t>(channels, 1))};
  const int64_t segments = std::max<int64_t>(ceil_div(locations, kSegment), 1);
  const int64_t rows = batch * ceil_div(channels, kMaxLogFactors);
  const int64_t wanted =
      std::clamp<int64_t>(rows * segments / (kUnits * threads), 1, kMaxLossTile / kSegment);
  return {kMaxLogFactors, kSegment * ceil_div(segments, ceil_div(segments, wanted))};
}

inline const char* at(const TensorView& v, DType type, const Range& r) {
  if (v.data == nullptr) return nullptr;
  const int64_t offset = r.image * v.stride_b + r.channel * v.stride_c + r.location * v.stride_l;
  return static_cast<const char*>(v.data) + offset * static_cast<int64_t>(size_of(type));
}
inline char* at(void* values, int64_t index, size_t size) {
  return values == nullptr ? nullptr : static_cast<char*>(values) + index * static_cast<int64_t>(size);
}

// Gradients that together are larger than this leave the caches before anything reads them again.
constexpr int64_t kStreamedBytes = 16 << 20;

// Streaming stores write 32 bytes at a time: every row of the gradient has to begin at a multiple of that.
// They pay for rows that are far apart, whose lines nothing would have asked for, and for float32.
inline bool streamable(const Block& b) {
  const int64_t stride = b.grad_stride * static_cast<int64_t>(size_of(b.student_type));
  const bool pays = b.student_type == DType::f32 || (b.student_type == DType::bf16 && !b.channel_major);
  return pays && (reinterpret_cast<uintptr_t>(b.grad) | stride) % 32 == 0;
}

// A range of one term as the kernels take it, S included where there is one. A term without a student gets
// the accumulation dtype for it.
inline Block block_of(const Level& level, const Term& term, const TermTypes& types, bool double_precision,
                      const Range& r) {
  const size_t accumulation = double_precision ? 8 : 4;
  const bool channel_major = !term.location_major();
  auto stride = [&](const TensorView& v) { return channel_major ? v.stride_l : v.stride_c; };
  Block b;
  b.channels = r.channels;
  b.locations = r.locations;
  b.channel_major = channel_major;
  b.student_type = term.student.present() ? types.student : double_precision ? DType::f64 : DType::f32;
  b.teacher_type = types.teacher;
  b.student = at(term.student, b.student_type, r);
  b.teacher = at(term.teacher, b.teacher_type, r);
  b.grad = const_cast<char*>(at(term.grad, b.student_type, r));
  b.student_stride = stride(term.student);
  b.teacher_stride = stride(term.teacher);
  b.grad_stride = stride(term.grad);
  b.mask = at(level.mask, r.image * level.locations + r.location, accumulation);
  b.channel_weight =
      at(const_cast<void*>(term.channel_weight), r.image * term.channels + r.channel, accumulation);
  return b;
}

}  // namespace frs::cpu
