// A ring buffer of asynchronous copies in shared memory, which keeps loads several vectors ahead of the
// arithmetic. Loads in flight then take no registers, and the compiler cannot sink them below the arithmetic.
#pragma once

#include <cuda_pipeline.h>

#include "codec.cuh"
#include "reduce.cuh"

namespace frs::cuda {

// Copies 16 bytes through the L2 cache alone. The prefetch size L2::128B took 4 to 5 % off the loss kernel's
// time on an H200 (docs/tuning-cuda.md).
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

// kStages vectors of each of kTensors tensors, for every thread of the block. A thread reads only what it has
// copied itself, so the ring needs no barrier.
template <class C, int kTensors>
struct Ring {
  static constexpr int kQuads = C::kWords / 4, kStages = 8 / (kTensors * kQuads);
  uint4 slots[kStages][kTensors][kQuads][kThreads];

  FRS_DEVICE void fetch(uint32_t stage, int tensor, const C& codec, const char* p) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if (q < codec.quads()) copy_async(&slots[stage][tensor][q][threadIdx.x], p + 16 * q);
    }
  }
  FRS_DEVICE void read(uint32_t stage, int tensor, const C& codec, uint32_t* words) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      uint4 quad = {};
      if (q < codec.quads()) quad = slots[stage][tensor][q][threadIdx.x];
      words[4 * q] = quad.x, words[4 * q + 1] = quad.y, words[4 * q + 2] = quad.z, words[4 * q + 3] = quad.w;
    }
  }

  // Calls fetch(stage) and use(stage) `count` times each, in order, with the fetches kStages - 1 calls ahead.
  template <class Fetch, class Use>
  static FRS_DEVICE void pipeline(uint32_t count, const Fetch& fetch, const Use& use) {
    uint32_t fetched = 0;
    auto fetch_next = [&] {
      if (fetched < count) fetch(fetched++ % kStages);
      __pipeline_commit();  // of an empty group after the last fetch, because the wait below counts groups
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
