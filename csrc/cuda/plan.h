// From the levels of frs/contract.h to the kernels' arguments. Host code.
#pragma once

#include "operators.h"

namespace frs::cuda {

// Elements of a vector: kWidth of the codec.
constexpr uint32_t vector_width(CodecId codec) {
  return codec == CodecId::f64 ? 2 : codec == CodecId::f32 ? 4 : 8;
}

// Fills in the levels of the mask kernel's arguments, and returns the number of tiles.
uint32_t plan_mask(MaskTable& table, const Level* levels, int num_levels, DType teacher);

// The kernels, each in a file of its own.
cudaError_t launch_mask(const MaskTable& table, uint32_t tiles, DType teacher, cudaStream_t stream);
cudaError_t launch_mask_sum(const MaskSumTable& table, uint32_t tiles, bool double_precision,
                            cudaStream_t stream);
cudaError_t launch_loss(const LossPlan& plan, cudaStream_t stream);
cudaError_t launch_single_pass(const LossPlan& plan, cudaStream_t stream);

}  // namespace frs::cuda
