// FRS_HOST_DEVICE: an inline function for the host compiler and for nvcc's host and device code.
// FRS_CHECK(condition): stops the program, or the kernel, unless an index is in bounds. Only FRS_DEBUG=1 (see
// setup.py) builds it.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define FRS_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FRS_HOST_DEVICE inline __attribute__((always_inline))
#endif

#if defined(FRS_DEBUG)
#include <cassert>
#define FRS_CHECK(condition) assert(condition)
#else
#define FRS_CHECK(condition) static_cast<void>(0)
#endif
