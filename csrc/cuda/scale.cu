// The backward: stored gradients times the incoming one, which only the device knows.
#include "launch.h"
#include "vec.cuh"

namespace frs::cuda {
namespace {

using tiles::kThreads;
constexpr int kMaxSpans = kMaxTerms;
constexpr uint32_t kBlocks =
    1024;  // several for every multiprocessor, and quick to return where all factors are 1

struct ScaleTable {
  DenseTensor spans[kMaxSpans];
  int count = 0;
  const void* factor = nullptr;   // [1]
  const void* pending = nullptr;  // [count]
};

template <class C>
__device__ __forceinline__ void scale_run(const C& codec, char* p, typename C::Acc factor) {
  uint32_t words[C::kWords];
  typename C::Acc v[C::kWidth];
  codec.load_run(words, p);
  codec.unpack(words, v);
#pragma unroll
  for (int j = 0; j < C::kWidth; ++j) v[j] *= factor;
  codec.store_run(p, v);
}

template <class C>
__device__ __forceinline__ void scale_one(const C& codec, char* p, typename C::Acc factor) {
  uint32_t words[C::kWords];
  typename C::Acc v[C::kWidth];
  codec.neutral(words);
  codec.load_one(words, 0, p);
  codec.unpack(words, v);
  codec.store_one(p, v[0] * factor);
}

template <class C>
__global__ void __launch_bounds__(kThreads) scale_kernel(const __grid_constant__ ScaleTable table) {
  using Acc = typename C::Acc;
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x, stride = int64_t{gridDim.x} * kThreads;
  const Acc incoming = *static_cast<const Acc*>(table.factor);
  for (int i = 0; i < table.count; ++i) {
    const Acc factor = incoming * static_cast<const Acc*>(table.pending)[i];
    if (factor == 1) continue;
    const DenseTensor& span = table.spans[i];
    const C codec(span.type);
    char* data = static_cast<char*>(span.data);
    const int64_t runs = reinterpret_cast<uintptr_t>(data) % 16 == 0 ? span.size / C::kWidth : 0;
#pragma unroll 2
    for (int64_t r = first; r < runs; r += stride)
      scale_run(codec, data + r * C::kWidth * codec.bytes(), factor);
    for (int64_t e = runs * C::kWidth + first; e < span.size; e += stride) {
      scale_one(codec, data + e * codec.bytes(), factor);
    }
  }
}

}  // namespace

cudaError_t scale(const DenseTensor* spans, int count, const void* factor, const void* pending,
                  cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (int begin = 0; begin < count && error == cudaSuccess; begin += kMaxSpans) {
    const bool double_precision = spans[begin].type == DType::f64;
    const int64_t offset = begin * static_cast<int64_t>(double_precision ? 8 : 4);
    ScaleTable table;
    table.factor = factor;
    table.pending = static_cast<const char*>(pending) + offset;
    int64_t largest = 0;
    for (; table.count < kMaxSpans && begin + table.count < count; ++table.count) {
      const DenseTensor& span = spans[begin + table.count];
      table.spans[table.count] = span;
      largest = span.size > largest ? span.size : largest;
    }
    const int64_t wanted = (largest + 2 * kThreads - 1) / (2 * kThreads);
    const uint32_t blocks = wanted < kBlocks ? static_cast<uint32_t>(wanted) : kBlocks;
    if (blocks == 0) continue;
    error = detail::launch(double_precision ? scale_kernel<Codec<DType::f64>> : scale_kernel<AnyCodec>,
                           blocks, table, stream);
  }
  return error;
}

}  // namespace frs::cuda
