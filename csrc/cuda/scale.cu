// The backward of the loss: the stored gradients, times their pending factors and the gradient of the output,
// in place. Where that product is 1 there is nothing to do, and only the device has the numbers to see it.
#include "codec.cuh"
#include "launch.cuh"

namespace frs::cuda {
namespace {

using tiles::kThreads;
constexpr int kMaxGrads = kMaxTerms;  // in one launch
// Several per multiprocessor, yet few enough that a launch is short where all products are 1.
constexpr uint32_t kMaxBlocks = 1024;

struct ScaleTable {
  DenseTensor grads[kMaxGrads];
  int count = 0;
  const void* grad_output = nullptr;  // [1], accumulation dtype
  const void* pending = nullptr;      // [count], accumulation dtype
};

template <class C>
__device__ __forceinline__ void scale_vector(const C& codec, char* p, typename C::Acc factor) {
  uint32_t words[C::kWords];
  typename C::Acc v[C::kWidth];
  codec.load_vector(words, p);
  codec.unpack(words, v);
#pragma unroll
  for (int j = 0; j < C::kWidth; ++j) v[j] *= factor;
  codec.store_vector(p, v);
}

template <class C>
__device__ __forceinline__ void scale_element(const C& codec, char* p, typename C::Acc factor) {
  uint32_t words[C::kWords];
  typename C::Acc v[C::kWidth];
  codec.neutral(words);
  codec.load_element(words, 0, p);
  codec.unpack(words, v);
  codec.store_element(p, v[0] * factor);
}

template <class C>
__global__ void __launch_bounds__(kThreads) scale_kernel(const __grid_constant__ ScaleTable table) {
  using Acc = typename C::Acc;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x, stride = int64_t{gridDim.x} * kThreads;
  const Acc grad_output = *static_cast<const Acc*>(table.grad_output);
  for (int i = 0; i < table.count; ++i) {
    const Acc factor = grad_output * static_cast<const Acc*>(table.pending)[i];
    if (factor == 1) continue;
    const DenseTensor& grad = table.grads[i];
    const C codec(grad.type);
    char* data = static_cast<char*>(grad.data);
    const int64_t vectors = reinterpret_cast<uintptr_t>(data) % 16 == 0 ? grad.size / C::kWidth : 0;
#pragma unroll 2
    for (int64_t v = first; v < vectors; v += stride)
      scale_vector(codec, data + v * C::kWidth * codec.bytes(), factor);
    for (int64_t e = vectors * C::kWidth + first; e < grad.size; e += stride) {
      scale_element(codec, data + e * codec.bytes(), factor);
    }
  }
}

}  // namespace

cudaError_t scale(const DenseTensor* grads, int count, const void* grad_output, const void* pending,
                  cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (int begin = 0; begin < count && error == cudaSuccess; begin += kMaxGrads) {
    const bool double_precision = grads[begin].type == DType::f64;
    ScaleTable table;
    table.grad_output = grad_output;
    table.pending = static_cast<const char*>(pending) + begin * int64_t{double_precision ? 8 : 4};
    int64_t largest = 0;
    for (; table.count < kMaxGrads && begin + table.count < count; ++table.count) {
      const DenseTensor& grad = grads[begin + table.count];
      table.grads[table.count] = grad;
      largest = grad.size > largest ? grad.size : largest;
    }
    const int64_t wanted = (largest + 2 * kThreads - 1) / (2 * kThreads);
    const uint32_t blocks = wanted < kMaxBlocks ? static_cast<uint32_t>(wanted) : kMaxBlocks;
    if (blocks == 0) continue;
    error = launch(double_precision ? scale_kernel<Codec<DType::f64>> : scale_kernel<AnyCodec>, blocks, table,
                   stream);
  }
  return error;
}

}  // namespace frs::cuda
