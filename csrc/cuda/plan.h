// From the levels of frs/contract.h to the kernels' tables. Host code.
#pragma once

#include "launch.h"

namespace frs::cuda {

constexpr uint32_t run_width(int codec) {  // elements a lane takes at a time: Codec::kWidth, AnyCodec::kWidth
  return codec == static_cast<int>(DType::f64) ? 2 : codec == static_cast<int>(DType::f32) ? 4 : 8;
}

inline Side side_of(const TensorView& view, bool location_major) {
  return {view.data, location_major ? view.stride_c : view.stride_l, view.stride_b};
}

// Fills the score table's levels from their teacher logits; returns the number of tiles.
uint32_t plan_scores(ScoreTable& table, const Level* levels, int num_levels, DType type);

}  // namespace frs::cuda
