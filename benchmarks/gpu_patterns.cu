// How fast memory is with the loss kernel's traffic, two tensors in and one out, by the order of the
// accesses, the instructions that copy, and how much is in flight. A vector takes one addition instead of the
// arithmetic of the loss, and where the table says so as many multiply-adds as the loss takes instructions.
// It shows what bounds the loss kernel, and which way of copying is worth a try there.
//
//   nvcc -O3 -std=c++17 -arch=native benchmarks/gpu_patterns.cu -o build/gpu_patterns && build/gpu_patterns
//
// Exit status 1 if a result is wrong or a CUDA call fails.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "gpu_moves.cuh"
#include "gpu_roofs.cuh"

namespace {

// The logits of the largest level of RetinaNet at 800x1344 as matrices [batch * rows, vectors].
struct Shape {
  const char* name;
  int rows, vectors;
};
const Shape kShapes[] = {{"nchw bf16", 720, 2100},
                         {"channels_last bf16", 16800, 90},
                         {"nchw fp32", 720, 4200},
                         {"channels_last fp32", 16800, 180}};

__global__ void fill(float4* out, int64_t count, float value) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) out[i] = make_float4(value, value + i % 61, value + i % 127, value + i % 251);
}

__global__ void count_wrong(Addition p, int64_t count, unsigned* wrong) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float4 a = p.a[i], b = p.b[i], c = p.out[i];
  if (c.x != a.x + b.x || c.y != a.y + b.y || c.z != a.z + b.z || c.w != a.w + b.w) atomicAdd(wrong, 1u);
}

struct Bench {
  Addition problem;
  int64_t count;  // vectors of a tensor
  unsigned* wrong;
  int shared_per_multiprocessor;
  bool right = true;

  int64_t blocks_of(Order order, int64_t warps) const {
    auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t rows = problem.rows, vectors = problem.vectors;
    switch (order) {
      case Order::down:
        return ceil_div(ceil_div(rows, kSteps) * ceil_div(vectors, kWarp), warps);
      case Order::pairs:
        return is_short(problem.vectors) ? ceil_div(rows, 2 * warps)
                                         : rows / problem.image_rows * ceil_div(vectors, kPairLanes);
      default:
        return ceil_div(count, kSteps * kWarp * warps);
    }
  }

  // Bytes per second, or 0 where a block needs more shared memory. `blocks` on a multiprocessor at a time,
  // which the shared memory that a block asks for sees to.
  template <Way kWay, Order kOrder, int kStages, int kWork>
  double rate(int threads, int blocks) {
    const int warps = threads / kWarp;
    const auto grid = static_cast<unsigned>(blocks_of(kOrder, warps));
    const int shared = (shared_per_multiprocessor / blocks - 1024) / 128 * 128;
    if (static_cast<int>(warps * sizeof(Buffers<kStages>)) > shared) return 0;
    auto* kernel = move<kWay, kOrder, kStages, kWork>;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared));
    CHECK(cudaMemset(problem.out, 0xFF, count * sizeof(float4)));
    const double time = seconds([&] { kernel<<<grid, threads, shared>>>(problem); });
    CHECK(cudaGetLastError());
    CHECK(cudaMemset(wrong, 0, sizeof *wrong));
    count_wrong<<<static_cast<unsigned>((count + 255) / 256), 256>>>(problem, count, wrong);
    unsigned wrong_vectors = 0;
    CHECK(cudaMemcpy(&wrong_vectors, wrong, sizeof *wrong, cudaMemcpyDeviceToHost));
    if (wrong_vectors > 0) printf("  WRONG: %u of %lld vectors\n", wrong_vectors, (long long)count);
    right &= wrong_vectors == 0;
    return 3.0 * static_cast<double>(count) * sizeof(float4) / time;
  }

  // A line of the table.
  template <Way kWay, int kStages, int kWork = 0>
  void rates(const char* way, int threads, int blocks) {
    printf("  %-22s %6d %6d %7d", way, kStages, blocks, threads);
    auto show = [](double rate) { printf("   %6.2f (%3.0f %%)", rate * 1e-12, 100 * rate / copy_rate); };
    show(rate<kWay, Order::down, kStages, kWork>(threads, blocks));
    show(rate<kWay, Order::along, kStages, kWork>(threads, blocks));
    show(rate<kWay, Order::together, kStages, kWork>(threads, blocks));
    if constexpr (kWay != Way::bulk && kWay != Way::bulk_both) {
      show(rate<kWay, Order::pairs, kStages, kWork>(threads, blocks));
    }
    printf("\n");
  }
};

}  // namespace

int main() {
  constexpr int kBatch = 16, kLossWork = 180;  // instructions of the head term per vector of bfloat16
  setvbuf(stdout, nullptr, _IOLBF, 0);
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  printf("%s, %d multiprocessors, L2 %d MB\n", device.name, device.multiProcessorCount,
         device.l2CacheSize >> 20);
  measure_roofs(device.multiProcessorCount);
  bool right = true;
  for (const Shape& shape : kShapes) {
    Memory memory;
    const int64_t rows = int64_t{kBatch} * shape.rows, count = rows * shape.vectors;
    auto tensor = [&](float value) {
      auto* data = static_cast<float4*>(memory.take(count * sizeof(float4)));
      fill<<<static_cast<unsigned>((count + 255) / 256), 256>>>(data, count, value);
      return data;
    };
    Bench bench{{tensor(1), tensor(2), tensor(0), rows, shape.rows, shape.vectors, 1, 0},
                count,
                static_cast<unsigned*>(memory.take(sizeof(unsigned))),
                static_cast<int>(device.sharedMemPerMultiprocessor)};
    printf("%s: TB/s (share of copy)\n", shape.name);
    printf("  %-22s stages blocks threads%17s%17s%17s%17s\n", "", "down", "along", "together", "pairs");
    bench.rates<Way::prefetch, 4>("cp.async L2::128B", 256, 3);
    bench.rates<Way::prefetch, 4, kLossWork>("  with arithmetic", 256, 3);
    bench.rates<Way::prefetch, 4>("cp.async L2::128B", 128, 8);
    bench.rates<Way::prefetch, 4>("cp.async L2::128B", 256, 5);
    bench.rates<Way::prefetch, 8>("cp.async L2::128B", 256, 3);
    bench.rates<Way::copies, 4>("cp.async", 256, 3);
    bench.rates<Way::copies, 4>("cp.async", 128, 8);
    bench.rates<Way::copies, 4, kLossWork>("  with arithmetic", 128, 8);
    bench.rates<Way::loads, 4>("loads", 256, 4);
    if (device.major >= 9) {
      bench.rates<Way::bulk, 4>("bulk", 256, 3);
      bench.rates<Way::bulk, 4, kLossWork>("  with arithmetic", 256, 3);
      bench.rates<Way::bulk, 8>("bulk", 128, 6);
      bench.rates<Way::bulk, 8>("bulk", 256, 3);
      bench.rates<Way::bulk_both, 4>("bulk, result too", 256, 3);
    }
    right &= bench.right;
  }
  return right ? 0 : 1;
}
