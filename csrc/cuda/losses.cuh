// What the block that is done last writes: the losses of the levels, and those of the batch or of its images.
// They are sums of partial sums. Those of an entry are adjacent, and within them those of an image.
#pragma once

#include "reduce.cuh"
#include "ring.cuh"
#include "table.h"

namespace frs::cuda {

// The sums by warp and entry take the ring's memory, which no thread needs any more: with more shared memory
// a multiprocessor could hold fewer blocks.
template <class C>
union RingOrSums {
  Ring<C, 2> ring;
  typename C::Acc sums[kWarps][kMaxTerms];
};

// Sums up values[first[e]] to values[first[e + 1]] of every entry e, into one sum per warp. A warp takes an
// eighth of all values: whole entries where these are small, a part of a large one. The loads do not wait for
// each other, since their latency is all that this takes.
template <class Acc>
__device__ __forceinline__ void sum_entries(Acc (&sums)[kWarps][kMaxTerms], const Acc* values,
                                            const uint32_t* first, int entries) {
  constexpr uint32_t kLoads = 8;
  const uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t share = tiles::ceil_div(first[entries], kWarps), begin = warp * share, end = begin + share;
  for (int e = 0; e < entries; ++e) {
    const uint32_t from = first[e] > begin ? first[e] : begin, to = first[e + 1] < end ? first[e + 1] : end;
    Acc sum = 0;
    if (from < to) {
      for (uint32_t i = from + lane; i < to; i += kLoads * kWarp) {
        Acc loaded[kLoads];
#pragma unroll
        for (uint32_t j = 0; j < kLoads; ++j) {
          loaded[j] = i + j * kWarp < to ? __ldcg(values + i + j * kWarp) : Acc(0);
        }
#pragma unroll
        for (uint32_t j = 0; j < kLoads; ++j) sum += loaded[j];
      }
      sum = warp_sum(sum);
    }
    if (lane == 0) sums[warp][e] = sum;
  }
}

// Writes the losses of the levels, loss_of(entry, sum of its partial sums), and their sums in the order of
// the levels, unless losses per image are wanted. All threads of the block must call it.
template <class Acc, class LossOf>
__device__ __forceinline__ void write_losses(const LossTable& table, Acc (&sums)[kWarps][kMaxTerms],
                                             const LossOf& loss_of) {
  static_assert(kMaxTerms <= kThreads, "a thread per entry");
  const int levels = table.num_levels, entry = static_cast<int>(threadIdx.x);
  sum_entries(sums, static_cast<const Acc*>(table.partials), table.first_block, 2 * levels);
  __syncthreads();
  if (entry < 2 * levels) {
    Acc sum = 0;
#pragma unroll
    for (uint32_t warp = 0; warp < kWarps; ++warp) sum += sums[warp][entry];
    const Acc loss = loss_of(entry, sum);
    static_cast<Acc*>(table.level_losses)[entry] = sums[0][entry] = loss;
  }
  __syncthreads();
  if (threadIdx.x != 0 || table.per_image) return;
  Acc feature = 0, head = 0;
  for (int l = 0; l < levels; ++l) feature += sums[0][l], head += sums[0][levels + l];
  Acc* losses = static_cast<Acc*>(table.losses);
  losses[0] = feature, losses[1] = head, losses[2] = feature + head;
}

// An image's partial sums of one entry.
template <class Acc>
struct ImageSums {
  const Acc* values = nullptr;
  uint32_t count = 0;
};

// Writes the losses of every image, a warp per image: loss_of(entry, sum of sums_of(entry, image)).
template <class Acc, class SumsOf, class LossOf>
__device__ __forceinline__ void write_image_losses(const LossTable& table, const SumsOf& sums_of,
                                                   const LossOf& loss_of) {
  const int levels = table.num_levels;
  const uint32_t lane = threadIdx.x % kWarp, images = table.images;
  for (uint32_t image = threadIdx.x / kWarp; image < images; image += kWarps) {
    Acc feature = 0, head = 0;
    for (int e = 0; e < 2 * levels; ++e) {
      const ImageSums<Acc> sums = sums_of(e, image);
      if (sums.count == 0) continue;
      Acc sum = 0;
      for (uint32_t i = lane; i < sums.count; i += kWarp) sum += __ldcg(sums.values + i);
      const Acc loss = loss_of(e, warp_sum(sum));
      if (e < levels) {
        feature += loss;
      } else {
        head += loss;
      }
    }
    if (lane != 0) continue;
    Acc* losses = static_cast<Acc*>(table.losses) + image;
    losses[0] = feature, losses[images] = head, losses[2 * images] = feature + head;
  }
}

}  // namespace frs::cuda
