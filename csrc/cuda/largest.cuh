// The largest of many vectors of logits, NaN if one of them is NaN: for every column of the vectors where
// kLocations is their width, else one for all columns together.
#pragma once

#include "codec.cuh"
#include "reduce.cuh"

namespace frs::cuda {

template <class C, int kLocations>
struct Largest {
  using Acc = typename C::Acc;

  FRS_DEVICE Largest() {
#pragma unroll
    for (int i = 0; i < kLocations; ++i) largest_[i] = -INFINITY;
  }
  FRS_DEVICE void add(const C& codec, const uint32_t* words) {
    Acc v[C::kWidth];
    codec.unpack(words, v);
#pragma unroll
    for (int j = 0; j < C::kWidth; ++j) {
      const int i = kLocations == 1 ? 0 : j;
      largest_[i] = nan_max(largest_[i], v[j]);
    }
  }
  FRS_DEVICE Acc of(int location) const { return largest_[location]; }

 private:
  Acc largest_[kLocations];
};

// The 16-bit types: an instruction compares two elements, without conversion.
template <class Half, int kLocations>
struct Largest16 {
  FRS_DEVICE Largest16() {
#pragma unroll
    for (int i = 0; i < 4; ++i) largest_[i] = Half::kLowest;
  }
  FRS_DEVICE void add(const Codec16<Half>&, const uint32_t* words) {
#pragma unroll
    for (int i = 0; i < 4; ++i) largest_[i] = max_of_pairs(largest_[i], words[i]);
  }
  FRS_DEVICE float of(int location) const {
    if constexpr (kLocations > 1) {
      const uint32_t pair = largest_[location / 2];
      return location % 2 ? Half::high(pair) : Half::low(pair);
    } else {
      const uint32_t pair =
          max_of_pairs(max_of_pairs(largest_[0], largest_[1]), max_of_pairs(largest_[2], largest_[3]));
      return nan_max(Half::low(pair), Half::high(pair));
    }
  }

 private:
  static FRS_DEVICE uint32_t max_of_pairs(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
    return Half::max_of_pairs(a, b);
#else
    return Half::pack(nan_max(Half::low(a), Half::low(b)), nan_max(Half::high(a), Half::high(b)));
#endif
  }

  uint32_t largest_[4];
};
template <int kLocations>
struct Largest<Codec<DType::bf16>, kLocations> : Largest16<Bfloat16, kLocations> {};
template <int kLocations>
struct Largest<Codec<DType::f16>, kLocations> : Largest16<Float16, kLocations> {};

}  // namespace frs::cuda
