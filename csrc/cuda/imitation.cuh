// The imitation term of one element: c (x - y)^2, and its derivative 2 c (x - y) with respect to x.
#pragma once

#include "codec.cuh"

namespace frs::cuda {

template <class Acc>
struct Imitation {
  static constexpr bool kChannelWeighted = true;

  struct Sums {
    Acc squares = 0;
  };

  // Adds one element to the sums of its location, and returns its derivative.
  FRS_DEVICE Acc add(Acc x, Acc y, Acc channel_weight, Sums& sums) const {
    const Acc difference = x - y, weighted = channel_weight * difference;
    sums.squares += weighted * difference;
    return 2 * weighted;
  }
  FRS_DEVICE Acc value(const Sums& sums) const { return sums.squares; }
};

}  // namespace frs::cuda
