// The imitation term, element by element: channel_weight (x - y)^2.
#pragma once

#include "vec.cuh"

namespace frs::cuda {

template <class Acc>
struct Imitation {
  static constexpr bool kChannelWeighted = true;
  static constexpr int kMaxFactors = 1 << 30;  // see Head

  struct Sums {
    Acc squares = 0;
  };

  // Adds one element to the sums of its location, and returns the derivative with respect to x.
  FRS_DEVICE Acc add(Acc x, Acc y, Acc channel_weight, Sums& sums) const {
    const Acc difference = x - y, weighted = channel_weight * difference;
    sums.squares += weighted * difference;
    return 2 * weighted;
  }
  FRS_DEVICE Acc value(const Sums& sums) const { return sums.squares; }
};

}  // namespace frs::cuda
