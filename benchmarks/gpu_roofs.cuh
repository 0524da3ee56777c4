// The clock of benchmarks/gpu_check.cu, and the bandwidth of the device's memory.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "gpu_truth.cuh"  // CHECK

// Device memory, freed with the object.
class Memory {
 public:
  void* take(size_t bytes) {
    void* p = nullptr;
    CHECK(cudaMalloc(&p, bytes + 16));
    taken_.push_back(p);
    return p;
  }
  ~Memory() {
    for (void* p : taken_) CHECK(cudaFree(p));
  }

 private:
  std::vector<void*> taken_;
};

// Median seconds of a call. All rounds are queued before the first ends, so that they contain no host time.
inline double seconds(const std::function<void()>& run, int rounds = 15) {
  std::vector<cudaEvent_t> starts(rounds), ends(rounds);
  run();
  for (int i = 0; i < rounds; ++i) {
    CHECK(cudaEventCreate(&starts[i]));
    CHECK(cudaEventCreate(&ends[i]));
    CHECK(cudaEventRecord(starts[i]));
    run();
    CHECK(cudaEventRecord(ends[i]));
  }
  CHECK(cudaDeviceSynchronize());
  std::vector<float> times(rounds);
  for (int i = 0; i < rounds; ++i) {
    CHECK(cudaEventElapsedTime(&times[i], starts[i], ends[i]));
    CHECK(cudaEventDestroy(starts[i]));
    CHECK(cudaEventDestroy(ends[i]));
  }
  std::sort(times.begin(), times.end());
  return 1e-3 * times[rounds / 2];
}

__global__ void copy_kernel(const uint4* from, uint4* to, size_t count) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) __stcs(to + i, __ldcs(from + i));
}

// Two tensors in, one out, as in the loss.
__global__ void sum_kernel(const uint4* a, const uint4* b, uint4* to, size_t count) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint4 u = __ldcs(a + i), v = __ldcs(b + i);
  __stcs(to + i, make_uint4(u.x + v.x, u.y + v.y, u.z + v.z, u.w + v.w));
}

__global__ void read_kernel(const uint4* from, size_t count, unsigned* never) {
  unsigned bits = 0;
  const size_t stride = size_t{gridDim.x} * blockDim.x;
#pragma unroll 4
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint4 v = __ldcs(from + i);
    bits |= v.x | v.y | v.z | v.w;
  }
  if (bits == 0) *never = bits;  // the buffer holds ones
}

inline double copy_rate = 0;  // bytes per second, read plus written

inline void measure_roofs(int multiprocessors) {
  Memory memory;
  const size_t bytes = size_t{1} << 30, quads = bytes / 16;
  auto* from = static_cast<uint4*>(memory.take(bytes));
  auto* to = static_cast<uint4*>(memory.take(bytes));
  CHECK(cudaMemset(from, 1, bytes));
  CHECK(cudaMemset(to, 0, bytes));
  const double by_driver =
      2 * bytes / seconds([&] { CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice)); });
  const double by_kernel = 2 * bytes / seconds([&] { copy_kernel<<<quads / 512, 512>>>(from, to, quads); });
  const double reading =
      bytes / seconds([&] {
        read_kernel<<<8 * multiprocessors, 512>>>(from, quads, reinterpret_cast<unsigned*>(to));
      });
  auto* other = static_cast<uint4*>(memory.take(bytes));
  CHECK(cudaMemset(other, 1, bytes));
  const double two_in =
      3 * bytes / seconds([&] { sum_kernel<<<quads / 512, 512>>>(from, other, to, quads); });
  const double writing = bytes / seconds([&] { CHECK(cudaMemsetAsync(to, 2, bytes)); });
  copy_rate = std::max(by_driver, by_kernel);
  printf("copy by the driver %.3f, by a kernel %.3f; two in, one out %.3f; reading %.3f, writing %.3f TB/s\n",
         by_driver * 1e-12, by_kernel * 1e-12, two_in * 1e-12, reading * 1e-12, writing * 1e-12);
}

inline void report(const char* what, double time, double bytes) {
  printf("  %-32s %8.1f us %6.2f TB/s %6.1f %% of copy\n", what, time * 1e6, bytes / time * 1e-12,
         100 * bytes / time / copy_rate);
}
