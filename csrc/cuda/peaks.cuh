// The largest elements of many runs, column by column: NaN where a column has one.
#pragma once

#include "reduce.cuh"
#include "vec.cuh"

namespace frs::cuda {

template <class C>
struct Peaks {
  using Acc = typename C::Acc;
  Acc best[C::kWidth];

  FRS_DEVICE Peaks() {
    for (int j = 0; j < C::kWidth; ++j) best[j] = -INFINITY;
  }
  FRS_DEVICE void add(const C& codec, const uint32_t* words) {
    Acc v[C::kWidth];
    codec.unpack(words, v);
#pragma unroll
    for (int j = 0; j < C::kWidth; ++j) best[j] = nan_max(best[j], v[j]);
  }
  FRS_DEVICE Acc of_column(int j) const { return best[j]; }
  FRS_DEVICE Acc of_all() const {
    Acc m = best[0];
#pragma unroll
    for (int j = 1; j < C::kWidth; ++j) m = nan_max(m, best[j]);
    return m;
  }
};

// Two elements to an instruction, in their own type: a maximum rounds nothing.
template <class Half>
struct PackedPeaks {
  uint32_t best[4] = {Half::kLowest, Half::kLowest, Half::kLowest, Half::kLowest};

  FRS_DEVICE void add(const Codec16<Half>&, const uint32_t* words) {
#pragma unroll
    for (int i = 0; i < 4; ++i) best[i] = larger(best[i], words[i]);
  }
  FRS_DEVICE float of_column(int j) const { return j % 2 ? Half::high(best[j / 2]) : Half::low(best[j / 2]); }
  FRS_DEVICE float of_all() const {
    const uint32_t m = larger(larger(best[0], best[1]), larger(best[2], best[3]));
    return nan_max(Half::low(m), Half::high(m));
  }

 private:
  static FRS_DEVICE uint32_t larger(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    return Half::larger(a, b);
#else
    return Half::pack(nan_max(Half::low(a), Half::low(b)), nan_max(Half::high(a), Half::high(b)));
#endif
  }
};
template <>
struct Peaks<Codec<DType::bf16>> : PackedPeaks<Bfloat16> {};
template <>
struct Peaks<Codec<DType::f16>> : PackedPeaks<Float16> {};

}  // namespace frs::cuda
