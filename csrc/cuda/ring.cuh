// Runs of student and teacher on their way: copied asynchronously into shared memory, several ahead of the
// one that is worked on. Loads in flight then cost no registers, and the compiler cannot move them behind the
// arithmetic. A thread copies what it will itself read, so nothing needs a barrier.
#pragma once

#include <cuda_pipeline.h>

#include "reduce.cuh"
#include "vec.cuh"

namespace frs::cuda {

// Asks the L2 for the whole line of 128 bytes, which took 4 to 5 % off the loss kernel's time on an H200
// (docs/tuning-cuda.md).
FRS_DEVICE void copy_async(void* shared, const void* p) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(p)
               : "memory");
#else
  __pipeline_memcpy_async(shared, p, 16);
#endif
}

template <class C, int kSides>
struct Ring {
  static constexpr int kQuads = C::kWords / 4, kStages = 8 / (kSides * kQuads);
  uint4 slots[kStages][kSides][kQuads][kThreads];

  FRS_DEVICE void fetch(uint32_t stage, int side, const C& codec, const char* p) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if (q < codec.quads()) copy_async(&slots[stage][side][q][threadIdx.x], p + 16 * q);
    }
  }
  FRS_DEVICE void read(uint32_t stage, int side, const C& codec, uint32_t* words) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      uint4 quad = {};
      if (q < codec.quads()) quad = slots[stage][side][q][threadIdx.x];
      words[4 * q] = quad.x, words[4 * q + 1] = quad.y, words[4 * q + 2] = quad.z, words[4 * q + 3] = quad.w;
    }
  }

  // Calls fetch(stage) and later use(stage) `count` times; each in its order, the fetches kStages - 1 ahead.
  template <class Fetch, class Use>
  static FRS_DEVICE void pipeline(uint32_t count, const Fetch& fetch, const Use& use) {
    uint32_t fetched = 0;
    auto fetch_next = [&] {
      if (fetched < count) fetch(fetched++ % kStages);
      __pipeline_commit();  // an empty group beyond the last one keeps the count of groups right
    };
#pragma unroll
    for (int stage = 1; stage < kStages; ++stage) fetch_next();
#pragma unroll 1
    for (uint32_t i = 0; i < count; ++i) {
      fetch_next();
      __pipeline_wait_prior(kStages - 1);
      use(i % kStages);
    }
  }
};

}  // namespace frs::cuda
