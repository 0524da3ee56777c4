// Rows of student and teacher on their way: copied asynchronously into shared memory, several ahead of the
// one that is worked on. Loads in flight then cost no registers, and the compiler cannot move them behind the
// arithmetic. A thread copies what it will itself read, so nothing needs a barrier.
#pragma once

#include <cuda_pipeline.h>

#include "reduce.cuh"
#include "vec.cuh"

namespace frs::cuda {

template <class C>
struct Ring {
  static constexpr int kQuads = C::kWords / 4, kStages = 4 / kQuads;
  uint4 slots[kStages][2][kQuads][kThreads];

  FRS_DEVICE void fetch_side(int stage, int side, const C& codec, const char* p) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if (q < codec.quads()) __pipeline_memcpy_async(&slots[stage][side][q][threadIdx.x], p + 16 * q, 16);
    }
  }
  FRS_DEVICE void read_side(int stage, int side, const C& codec, uint32_t* words) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      uint4 quad = {};
      if (q < codec.quads()) quad = slots[stage][side][q][threadIdx.x];
      words[4 * q] = quad.x, words[4 * q + 1] = quad.y, words[4 * q + 2] = quad.z, words[4 * q + 3] = quad.w;
    }
  }
};

// Calls row(student's words, teacher's words) for each of `count` rows, the first at s and t, the others
// `s_stride` and `t_stride` bytes on.
template <class C, class Row>
FRS_DEVICE void walk_rows(Ring<C>& ring, int count, const C& student, const char* s, int64_t s_stride,
                          const C& teacher, const char* t, int64_t t_stride, const Row& row) {
  constexpr int kStages = Ring<C>::kStages;
  int fetched = 0;
  auto fetch_next = [&] {  // an empty group beyond the last row keeps the count of groups right
    if (fetched < count) {
      ring.fetch_side(fetched % kStages, 0, student, s);
      ring.fetch_side(fetched % kStages, 1, teacher, t);
      s += s_stride;
      t += t_stride;
      ++fetched;
    }
    __pipeline_commit();
  };
#pragma unroll
  for (int stage = 1; stage < kStages; ++stage) fetch_next();
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    fetch_next();
    __pipeline_wait_prior(kStages - 1);
    uint32_t s_words[C::kWords], t_words[C::kWords];
    ring.read_side(i % kStages, 0, student, s_words);
    ring.read_side(i % kStages, 1, teacher, t_words);
    row(s_words, t_words);
  }
}

}  // namespace frs::cuda
