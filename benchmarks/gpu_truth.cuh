// Inputs of benchmarks/gpu_check.cu, and the float64 results that its kernels are compared with.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#define CHECK(call) check((call), #call, __LINE__)
inline void check(cudaError_t error, const char* call, int line) {
  if (error == cudaSuccess) return;
  printf("FAILED, line %d: %s: %s\n", line, call, cudaGetErrorString(error));
  exit(1);
}

constexpr double kFeatScale = 0.005, kHeadScale = 0.02;
constexpr int kThreads = 128;

__device__ uint32_t hashed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>((x ^ (x >> 31)) >> 16);
}

// Fills a tensor with normally distributed numbers.
template <class T>
__global__ void fill(T* out, size_t count, float mean, float spread, uint64_t seed) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float u = (hashed(seed + 2 * i) + 1.0f) * 0x1p-32f, v = hashed(seed + 2 * i + 1) * 0x1p-32f;
    out[i] = static_cast<T>(mean + spread * sqrtf(-2 * logf(u)) * cospif(2 * v));
  }
}

__device__ double as_double(double x) { return x; }
template <class T>
__device__ double as_double(T x) {
  return static_cast<float>(x);
}

template <class T>
struct Truth {
  const T *x, *y, *s, *t;  // student and teacher features, student and teacher logits of a level
  const T *dx, *ds;        // the gradients to compare
  int batch, feat_channels, logit_channels, locations;
  bool location_major;
  double pending[2];  // the pending factors of dx and ds
  double* mask;       // [batch * locations], out: S
  double* sums;       // out: sums of S, S * squared error, S * cross-entropy; then those of gradient_errors

  __device__ double at(const T* data, int channels, int index, int channel) const {
    const size_t b = index / locations, l = index % locations;
    return as_double(data[location_major ? (b * channels + channel) * locations + l
                                         : (b * locations + l) * channels + channel]);
  }
};

__device__ double probability(double z) { return 1 / (1 + exp(-z)); }

template <class T>
__global__ void true_sums(Truth<T> v) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= v.batch * v.locations) return;
  double largest = -INFINITY, squares = 0, entropy = 0;
  for (int k = 0; k < v.logit_channels; ++k) {
    const double t = v.at(v.t, v.logit_channels, i, k), s = v.at(v.s, v.logit_channels, i, k);
    largest = fmax(largest, t);
    entropy += fmax(s, 0.0) + log1p(exp(-fabs(s))) - probability(t) * s;
  }
  for (int d = 0; d < v.feat_channels; ++d) {
    const double difference = v.at(v.x, v.feat_channels, i, d) - v.at(v.y, v.feat_channels, i, d);
    squares += difference * difference;
  }
  const double mask = v.mask[i] = probability(largest);
  atomicAdd(v.sums, mask);
  atomicAdd(v.sums + 1, mask * squares);
  atomicAdd(v.sums + 2, mask * entropy);
}

// sums[3..6]: |dx - truth|^2, |truth|^2, |ds - truth|^2, |truth|^2. Gradients are NaN before a kernel runs:
// an element that it leaves out makes the sum NaN.
template <class T>
__global__ void gradient_errors(Truth<T> v) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= v.batch * v.locations) return;
  const double factor = v.mask[i] / v.sums[0];
  double norms[4] = {};
  for (int d = 0; d < v.feat_channels; ++d) {
    const double difference = v.at(v.x, v.feat_channels, i, d) - v.at(v.y, v.feat_channels, i, d);
    const double truth = kFeatScale * 2 * factor * difference;
    const double error = v.pending[0] * v.at(v.dx, v.feat_channels, i, d) - truth;
    norms[0] += error * error, norms[1] += truth * truth;
  }
  for (int k = 0; k < v.logit_channels; ++k) {
    const double s = v.at(v.s, v.logit_channels, i, k), t = v.at(v.t, v.logit_channels, i, k);
    const double truth = kHeadScale * factor * (probability(s) - probability(t));
    const double error = v.pending[1] * v.at(v.ds, v.logit_channels, i, k) - truth;
    norms[2] += error * error, norms[3] += truth * truth;
  }
  for (int j = 0; j < 4; ++j) atomicAdd(v.sums + 3 + j, norms[j]);
}
