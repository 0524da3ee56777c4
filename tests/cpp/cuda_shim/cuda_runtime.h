// A stand-in for the CUDA runtime: g++ compiles the kernels and the CPU runs them. Every thread of a block is
// a fiber, and blocks run one after another. __syncthreads and shuffles wait for their threads, and abort if
// some never arrive. An asynchronous copy that is read too early yields NaN.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};

extern "C" int emulated_launches;                    // kernels and memsets so far
extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the running thread

namespace emulator {

// Runs body() once for every thread of every block.
void run(dim3 grid, dim3 block, const std::function<void()>& body);
void block_barrier();
// Deposits a value, waits for all lanes of the warp, and returns the value of lane (own lane ^ mask).
uint64_t exchange(uint64_t value, unsigned mask);
// A thread's asynchronous copies arrive when it waits for them. Until then their targets hold NaN.
void copy_later(void* target, const void* source, size_t size);
void commit_copies();
void wait_for_copies(unsigned groups_left);

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace emulator

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::exchange(0, 0); }
inline void __threadfence() {}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  uint64_t word = 0;
  memcpy(&word, &value, sizeof(T));
  word = emulator::exchange(word, mask);
  memcpy(&value, &word, sizeof(T));
  return value;
}
inline unsigned atomicAdd(unsigned* p, unsigned v) {
  *p += v;
  return *p - v;
}

// An access must be aligned to its own size, as on the device.
template <class T>
const T* checked(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) __builtin_trap();
  return p;
}
template <class T>
T __ldg(const T* p) {
  return *checked(p);
}
template <class T>
T __ldcs(const T* p) {
  return *checked(p);
}
template <class T>
T __ldcg(const T* p) {
  return *checked(p);
}
template <class T>
void __stcs(T* p, T v) {
  *const_cast<T*>(checked(p)) = v;
}

inline float __uint_as_float(uint32_t v) { return emulator::bits<float>(v); }
inline uint32_t __float_as_uint(float v) { return emulator::bits<uint32_t>(v); }
inline double __hiloint2double(uint32_t high, uint32_t low) {
  return emulator::bits<double>(uint64_t{high} << 32 | low);
}
inline int __double2loint(double v) { return static_cast<int>(emulator::bits<uint64_t>(v)); }
inline int __double2hiint(double v) { return static_cast<int>(emulator::bits<uint64_t>(v) >> 32); }

enum cudaError_t { cudaSuccess = 0 };
using cudaStream_t = struct EmulatedStream*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  emulator::run(config->gridDim, config->blockDim, [&] { kernel(arguments...); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t size, cudaStream_t) {
  ++emulated_launches;
  memset(p, value, size);
  return cudaSuccess;
}
