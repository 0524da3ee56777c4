// The backward of the loss: the stored gradients, times their pending factors and the gradient of the output,
// in place. Where that product is 1 there is nothing to do, and only the device has the numbers to see it.
// The gradient of the output is one number, or one per image.
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
  uint32_t images = 1;
  const void* grad_output = nullptr;  // [images], accumulation dtype
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

// Scales one image of a gradient, `size` elements. Those before the first address that is aligned to 16
// bytes, and those after the last whole vector, are scaled one by one.
template <class C>
__device__ __forceinline__ void scale_image(const C& codec, char* data, int64_t size,
                                            typename C::Acc factor) {
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x, stride = int64_t{gridDim.x} * kThreads;
  const uint32_t skipped = static_cast<uint32_t>(-reinterpret_cast<uintptr_t>(data) % 16);
  const int64_t unaligned = skipped / static_cast<uint32_t>(codec.bytes());
  const int64_t head = unaligned < size ? unaligned : size, vectors = (size - head) / C::kWidth;
#pragma unroll 2
  for (int64_t v = first; v < vectors; v += stride)
    scale_vector(codec, data + (head + v * C::kWidth) * codec.bytes(), factor);
  for (int64_t e = first; e < size - vectors * C::kWidth; e += stride) {
    scale_element(codec, data + (e < head ? e : e + vectors * C::kWidth) * codec.bytes(), factor);
  }
}

// blockIdx.y counts images, and blockIdx.x goes through the elements of one.
template <class C>
__global__ void __launch_bounds__(kThreads) scale_kernel(const __grid_constant__ ScaleTable table) {
  using Acc = typename C::Acc;
  for (uint32_t image = blockIdx.y; image < table.images; image += gridDim.y) {
    const Acc grad_output = static_cast<const Acc*>(table.grad_output)[image];
    for (int i = 0; i < table.count; ++i) {
      const Acc factor = grad_output * static_cast<const Acc*>(table.pending)[i];
      if (factor == 1) continue;
      const DenseTensor& grad = table.grads[i];  // `size` is that of one image
      const C codec(grad.type);
      scale_image(codec, static_cast<char*>(grad.data) + image * grad.size * codec.bytes(), grad.size,
                  factor);
    }
  }
}

dim3 grid_of(int64_t largest, uint32_t images) {
  const int64_t wanted = (largest + 2 * kThreads - 1) / (2 * kThreads);
  const uint32_t blocks = wanted < kMaxBlocks ? static_cast<uint32_t>(wanted) : kMaxBlocks;
  const uint32_t rows = kMaxBlocks / blocks;
  return {blocks, images < rows ? images : rows, 1};
}

}  // namespace

cudaError_t scale(const DenseTensor* grads, int count, int64_t images, const void* grad_output,
                  const void* pending, cudaStream_t stream) {
  if (images == 0) return cudaSuccess;
  cudaError_t error = cudaSuccess;
  for (int begin = 0; begin < count && error == cudaSuccess; begin += kMaxGrads) {
    const bool double_precision = grads[begin].type == DType::f64;
    ScaleTable table;
    table.images = static_cast<uint32_t>(images);
    table.grad_output = grad_output;
    table.pending = static_cast<const char*>(pending) + begin * int64_t{double_precision ? 8 : 4};
    int64_t largest = 0;
    for (; table.count < kMaxGrads && begin + table.count < count; ++table.count) {
      DenseTensor& grad = table.grads[table.count] = grads[begin + table.count];
      grad.size /= images;
      largest = grad.size > largest ? grad.size : largest;
    }
    if (largest == 0) continue;
    error = launch(double_precision ? scale_kernel<Codec<DType::f64>> : scale_kernel<AnyCodec>,
                   grid_of(largest, table.images), table, stream);
  }
  return error;
}

}  // namespace frs::cuda
