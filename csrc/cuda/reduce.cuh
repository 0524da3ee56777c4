// Sums and maxima over the threads of a warp or block, always in the same order: the same input, the same
// bits.
#pragma once

#include <cuda_runtime.h>

#include "frs/tiles.h"

namespace frs::cuda {

using tiles::kThreads, tiles::kWarp, tiles::kWarps;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

// The larger one; NaN if either is, as torch.amax has it (fmax drops NaN).
template <class T>
__device__ __forceinline__ T nan_max(T a, T b) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 4) {
    float m;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
    return m;
  }
#endif
  return a > b || a != a ? a : b;
}

// Over each group of `lanes` neighbouring lanes (a power of two); every lane of the warp takes part.
template <class T>
__device__ __forceinline__ T group_max(T v, uint32_t lanes) {
  for (uint32_t offset = lanes / 2; offset > 0; offset /= 2)
    v = nan_max(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}

template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (uint32_t offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// The sum over all threads of the block, in every thread. It ends with the block synchronised.
template <class T>
__device__ __forceinline__ T block_sum(T v) {
  __shared__ T sums[kWarps];
  v = warp_sum(v);
  __syncthreads();  // an earlier call's sums have been read
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = sums[0];
  for (uint32_t warp = 1; warp < kWarps; ++warp) v += sums[warp];
  return v;
}

// The sum of values[0..count) that other blocks, of this launch or an earlier one, have written; in every
// thread.
template <class T>
__device__ __forceinline__ T block_sum_of(const T* values, uint32_t count) {
  T v = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) v += __ldcg(values + i);
  return block_sum(v);
}

// True in every thread of the block that arrives last of all blocks. What thread 0 of any block wrote before,
// all its threads can read (past the L1: __ldcg). `counter` starts at 0.
__device__ __forceinline__ bool arrives_last(unsigned* counter) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();  // this thread alone has written what other blocks read
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace frs::cuda
