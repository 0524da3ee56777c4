// FRS_HOST_DEVICE: an inline function for the host compiler and for nvcc's host and device code.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define FRS_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FRS_HOST_DEVICE inline __attribute__((always_inline))
#endif
