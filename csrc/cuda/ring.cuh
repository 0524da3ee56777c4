// A ring buffer of asynchronous copies in shared memory, which keeps loads several vectors ahead of the
// arithmetic. Loads in flight then take no registers, and the compiler cannot sink them below the arithmetic.
#pragma once

#include <cuda_pipeline.h>

#include "codec.cuh"
#include "reduce.cuh"

namespace frs::cuda {

// An address in shared memory. It is held in a register: for sm_90 the compiler would otherwise compute the
// address of a shared variable anew before every access, in four instructions.
struct SharedAddress {
#ifdef __CUDA_ARCH__
  uint32_t address;

  explicit FRS_DEVICE SharedAddress(const void* shared) {
    asm volatile("mov.u32 %0, %1;"
                 : "=r"(address)
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))));
  }
  // Copies 16 bytes through the L2 cache alone. The prefetch size L2::128B took 4 to 5 % off the loss
  // kernel's time on an H200 (docs/tuning-cuda.md).
  FRS_DEVICE void copy_async(const void* p) const {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(address), "l"(p) : "memory");
  }
  FRS_DEVICE uint4 load() const {
    uint4 quad;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(quad.x), "=r"(quad.y), "=r"(quad.z), "=r"(quad.w)
                 : "r"(address)
                 : "memory");
    return quad;
  }
#else
  char* address;

  explicit FRS_DEVICE SharedAddress(void* shared) : address(static_cast<char*>(shared)) {}
  FRS_DEVICE void copy_async(const void* p) const { __pipeline_memcpy_async(address, p, 16); }
  FRS_DEVICE uint4 load() const { return *reinterpret_cast<const uint4*>(address); }
#endif
  FRS_DEVICE SharedAddress operator+(uint32_t bytes) const {
    SharedAddress sum = *this;
    sum.address += bytes;
    return sum;
  }
};

// kStages vectors of each of kTensors tensors, for every thread of the block. A thread reads only what it has
// copied itself, so the ring needs no barrier.
template <class C, int kTensors>
struct Ring {
  static constexpr int kQuads = C::kWords / 4, kStages = 8 / (kTensors * kQuads);
  uint4 slots[kStages][kTensors][kQuads][kThreads];

  // A thread's vectors of one stage.
  struct Stage {
    SharedAddress first;

    FRS_DEVICE void fetch(int tensor, const C& codec, const char* p) const {
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        if (q < codec.quads()) slot(tensor, q).copy_async(p + 16 * q);
      }
    }
    FRS_DEVICE void read(int tensor, const C& codec, uint32_t* words) const {
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        uint4 quad = {};
        if (q < codec.quads()) quad = slot(tensor, q).load();
        words[4 * q] = quad.x, words[4 * q + 1] = quad.y, words[4 * q + 2] = quad.z,
                  words[4 * q + 3] = quad.w;
      }
    }

   private:
    FRS_DEVICE SharedAddress slot(int tensor, int quad) const {
      return first + static_cast<uint32_t>((tensor * kQuads + quad) * sizeof(slots[0][0][0]));
    }
  };

  // Calls fetch(stage) and use(stage) `count` times each, in order, with the fetches kStages - 1 calls ahead.
  template <class Fetch, class Use>
  FRS_DEVICE void pipeline(uint32_t count, const Fetch& fetch, const Use& use) {
    constexpr uint32_t kStageBytes = sizeof(slots[0]), kBytes = sizeof(slots);
    static_assert((kBytes & (kBytes - 1)) == 0, "positions in the ring wrap around by a bit mask");
    const SharedAddress own(&slots[0][0][0][threadIdx.x]);
    uint32_t fetched = 0, position = 0;  // of the next vector to be used, in bytes
    auto fetch_ahead = [&](uint32_t stages) {
      if (fetched < count) ++fetched, fetch(Stage{own + (position + stages * kStageBytes) % kBytes});
      __pipeline_commit();  // of an empty group after the last fetch, because the wait below counts groups
    };
#pragma unroll
    for (uint32_t stage = 0; stage < kStages - 1; ++stage) fetch_ahead(stage);
#pragma unroll 1
    for (uint32_t i = 0; i < count; ++i) {
      fetch_ahead(kStages - 1);
      __pipeline_wait_prior(kStages - 1);
      use(Stage{own + position});
      position = (position + kStageBytes) % kBytes;
    }
  }
};

}  // namespace frs::cuda
