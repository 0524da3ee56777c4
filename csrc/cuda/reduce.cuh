// Reductions over the threads of a warp or a block, in a fixed order: results are reproducible bit for bit.
#pragma once

#include <cuda_runtime.h>

#include "frs/tiles.h"

namespace frs::cuda {

using tiles::kThreads, tiles::kWarp, tiles::kWarps;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

// The maximum, or NaN if either is NaN, like torch.amax; fmax would drop NaN.
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

// The maximum over each group of `lanes` adjacent lanes (a power of two). All lanes of the warp must call it.
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

// The sum over the block's warps of a value that all lanes of a warp have, returned in every thread. All
// threads must call it.
template <class T>
__device__ __forceinline__ T sum_of_warps(T v) {
  __shared__ T sums[kWarps];
  __syncthreads();  // until then, threads may still read the sums of an earlier call
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = sums[0];
  for (uint32_t warp = 1; warp < kWarps; ++warp) v += sums[warp];
  return v;
}

// The sum over all threads of the block, returned in every thread. All threads must call it.
template <class T>
__device__ __forceinline__ T block_sum(T v) {
  return sum_of_warps(warp_sum(v));
}

// The sum of values[0..count), returned in every thread. Other blocks have written them, of this launch or an
// earlier one: __ldcg bypasses the L1 cache, which is not coherent between multiprocessors.
template <class T>
__device__ __forceinline__ T block_sum_of(const T* values, uint32_t count) {
  T v = 0;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) v += __ldcg(values + i);
  return block_sum(v);
}

// True in all threads of the block that calls it last of the grid; these can then read (with __ldcg) what
// thread 0 of every block wrote before its call, and what other threads wrote before a barrier of their
// block. `counter` starts at 0.
__device__ __forceinline__ bool arrives_last(unsigned* counter) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();  // by this thread alone: what others wrote is behind the barrier, and fences are
                      // cumulative
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace frs::cuda
