// The kernels of benchmarks/gpu_patterns.cu: out = a + b, in several orders and by several instructions.
#pragma once

#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <cstdint>

constexpr int kWarp = 32, kSteps = 32;  // a warp tile is kSteps steps of a vector of 16 bytes per lane

// down: a tile is 32 rows, as in the loss kernel. along: 16 KB one after another. together: the warps of a
// block take one vector each of what is one after another, then the next ones. pairs: a warp takes 256 bytes
// of two rows, and a block walks down all rows of an image or along short rows, as the Triton kernels do.
enum class Order { down, along, together, pairs };
// loads: into registers, kStages vectors of both tensors at a time. copies: cp.async, prefetch: with L2::128B
// as in the loss kernel. bulk: one cp.async.bulk per row and tensor; bulk_both: the result leaves by bulk
// copies too.
enum class Way { loads, copies, prefetch, bulk, bulk_both };

// out = a + b, in matrices [rows, vectors].
struct Addition {
  const float4 *a, *b;
  float4* out;
  int64_t rows;     // of all images
  int image_rows;   // of one image
  int vectors;      // of a row
  float one, zero;  // what the compiler must not know
};

constexpr int kPairLanes = kWarp / 2;  // of a row
__host__ __device__ inline bool is_short(int vectors) { return vectors < 1024; }

// Where the tile of a warp is: its first vector, the distance between steps, and how much of it exists.
struct Tile {
  int64_t first, stride;
  int steps, lanes;
};

// The vectors of one lane.
struct Path {
  int64_t first, stride;
  int steps;
};

template <Order kOrder>
__device__ Tile tile_of(const Addition& p, int64_t block, int warp, int warps) {
  const int64_t index = block * warps + warp, total = p.rows * p.vectors;
  if (kOrder == Order::down) {
    const int across = (p.vectors + kWarp - 1) / kWarp;
    const int64_t row = index / across * kSteps;
    const int column = static_cast<int>(index % across) * kWarp;
    if (row >= p.rows) return {0, 0, 0, 0};
    return {row * p.vectors + column, p.vectors,
            static_cast<int>(p.rows - row < kSteps ? p.rows - row : kSteps),
            p.vectors - column < kWarp ? p.vectors - column : kWarp};
  }
  const bool together = kOrder == Order::together;
  const int64_t first = together ? (block * kSteps * warps + warp) * kWarp : index * kSteps * kWarp;
  const int64_t stride = together ? warps * kWarp : kWarp;
  const int64_t steps = first < total ? (total - first + stride - 1) / stride : 0;  // of whole vectors
  return {first, stride, static_cast<int>(steps < kSteps ? steps : kSteps), kWarp};
}

__device__ inline Path path_of_pairs(const Addition& p, int64_t block, int warp, int warps, int lane) {
  const int column = lane % kPairLanes, row = 2 * warp + lane / kPairLanes;
  if (is_short(p.vectors)) {
    const int64_t first_row = block * 2 * warps + row;
    const int steps = (p.vectors - column + kPairLanes - 1) / kPairLanes;
    return {first_row * p.vectors + column, kPairLanes, first_row < p.rows ? steps : 0};
  }
  const int across = (p.vectors + kPairLanes - 1) / kPairLanes;
  const int64_t image = block / across;
  const int first = static_cast<int>(block % across) * kPairLanes + column;
  return {(image * p.image_rows + row) * p.vectors + first, int64_t{2} * warps * p.vectors,
          first < p.vectors ? (p.image_rows - row + 2 * warps - 1) / (2 * warps) : 0};
}

template <Order kOrder>
__device__ Path path_of(const Addition& p, int64_t block, int warp, int warps, int lane) {
  if constexpr (kOrder == Order::pairs) {
    return path_of_pairs(p, block, warp, warps, lane);
  } else {
    const Tile tile = tile_of<kOrder>(p, block, warp, warps);
    return {tile.first + lane, tile.stride, lane < tile.lanes ? tile.steps : 0};
  }
}

template <int kWork>
__device__ float4 combined(const Addition& p, float4 a, float4 b) {
  float v[4] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
#pragma unroll
  for (int i = 0; i < kWork; ++i) v[i % 4] = v[i % 4] * p.one + p.zero;
  return make_float4(v[0], v[1], v[2], v[3]);
}

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

template <Way kWay>
__device__ void copy_async(void* shared, const void* p) {
  if constexpr (kWay == Way::prefetch) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(p)
                 : "memory");
  } else {
    __pipeline_memcpy_async(shared, p, 16);
  }
}

// A warp's buffers: kStages steps of both tensors, and of the result for bulk_both.
template <int kStages>
struct Buffers {
  float4 in[kStages][2][kWarp], out[2][kWarp];
  alignas(8) uint64_t arrived[kStages];
};

template <Way kWay, int kStages, int kWork>
__device__ void move_by_threads(const Addition& p, Buffers<kStages>& buffers, const Path& path, int lane) {
  auto position = [&](int step) { return path.first + step * path.stride; };
  if constexpr (kWay == Way::loads) {
#pragma unroll 1
    for (int i = 0; i < path.steps; i += kStages) {
      float4 a[kStages], b[kStages];
#pragma unroll
      for (int j = 0; j < kStages; ++j) {
        if (i + j < path.steps) a[j] = __ldcs(p.a + position(i + j)), b[j] = __ldcs(p.b + position(i + j));
      }
#pragma unroll
      for (int j = 0; j < kStages; ++j) {
        if (i + j < path.steps) __stcs(p.out + position(i + j), combined<kWork>(p, a[j], b[j]));
      }
    }
    return;
  }
  auto fetch = [&](int step) {
    if (step < path.steps) {
      copy_async<kWay>(&buffers.in[step % kStages][0][lane], p.a + position(step));
      copy_async<kWay>(&buffers.in[step % kStages][1][lane], p.b + position(step));
    }
    __pipeline_commit();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch(i);
#pragma unroll 1
  for (int i = 0; i < path.steps; ++i) {
    fetch(i + kStages - 1);
    __pipeline_wait_prior(kStages - 1);
    const auto& in = buffers.in[i % kStages];
    __stcs(p.out + position(i), combined<kWork>(p, in[0][lane], in[1][lane]));
  }
}

#if __CUDA_ARCH__ >= 900
__device__ void fetch_bulk(void* shared, const void* p, uint32_t bytes, uint32_t arrived) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(p), "r"(bytes), "r"(arrived)
      : "memory");
}

__device__ void wait_for(uint32_t arrived, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(arrived), "r"(parity)
        : "memory");
  }
}
#endif

// The first lane copies whole rows of the tile; a barrier per stage counts the bytes that have arrived.
template <bool kStores, int kStages, int kWork>
__device__ void move_in_bulk(const Addition& p, Buffers<kStages>& buffers, const Tile& tile, int lane) {
#if __CUDA_ARCH__ >= 900
  const uint32_t bytes = 16 * tile.lanes, all = 0xFFFFFFFF;
  auto position = [&](int step) { return tile.first + step * tile.stride; };
  if (lane == 0) {
    for (uint64_t& arrived : buffers.arrived) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&arrived)) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncwarp(all);
  auto fetch = [&](int step) {  // by the first lane
    if (step >= tile.steps) return;
    const uint32_t arrived = shared_address(&buffers.arrived[step % kStages]);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(arrived), "r"(2 * bytes)
                 : "memory");
    fetch_bulk(buffers.in[step % kStages][0], p.a + position(step), bytes, arrived);
    fetch_bulk(buffers.in[step % kStages][1], p.b + position(step), bytes, arrived);
  };
  if (lane == 0) {
    for (int i = 0; i < kStages - 1; ++i) fetch(i);
  }
#pragma unroll 1
  for (int i = 0; i < tile.steps; ++i) {
    if (lane == 0) fetch(i + kStages - 1);
    wait_for(shared_address(&buffers.arrived[i % kStages]), i / kStages % 2);
    const auto& in = buffers.in[i % kStages];
    const float4 sum = combined<kWork>(p, in[0][lane], in[1][lane]);
    if constexpr (kStores) {
      if (lane == 0) asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");  // the buffer is free
      __syncwarp(all);
      buffers.out[i % 2][lane] = sum;
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp(all);
      if (lane == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(p.out + position(i)),
                     "r"(shared_address(buffers.out[i % 2])), "r"(bytes)
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
    } else {
      if (lane < tile.lanes) __stcs(p.out + position(i) + lane, sum);
    }
    __syncwarp(all);  // all lanes have read the stage that the next turn overwrites
  }
  if (kStores && lane == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

template <Way kWay, Order kOrder, int kStages, int kWork>
__global__ void move(const Addition p) {
  extern __shared__ __align__(128) char memory[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  auto& buffers = reinterpret_cast<Buffers<kStages>*>(memory)[warp];
  if constexpr (kWay == Way::bulk || kWay == Way::bulk_both) {
    const Tile tile = tile_of<kOrder>(p, blockIdx.x, warp, warps);
    move_in_bulk<kWay == Way::bulk_both, kStages, kWork>(p, buffers, tile, lane);
  } else {
    const Path path = path_of<kOrder>(p, blockIdx.x, warp, warps, lane);
    move_by_threads<kWay, kStages, kWork>(p, buffers, path, lane);
  }
}
