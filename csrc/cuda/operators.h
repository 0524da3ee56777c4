// The operators on a GPU, without torch: what the binding calls. They enqueue kernels on `stream` and return.
// They neither allocate memory nor synchronize, so that they can be captured into a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "frs/contract.h"
#include "table.h"

namespace frs::cuda {

// Level::mask [B, L] = max over k of sigmoid(T [B, K, L]), where T is Level::head.teacher. One launch.
cudaError_t mask(const Level* levels, int num_levels, DType teacher, cudaStream_t stream);

// How a kernel loads and stores the tensors of a call: with the codec of their dtype (codec.cuh), or AnyCodec
// (any), which has every dtype but float64, for calls whose lists differ in dtype or that are rare.
enum class CodecId : int {
  f32 = static_cast<int>(DType::f32),
  bf16 = static_cast<int>(DType::bf16),
  f16 = static_cast<int>(DType::f16),
  f64 = static_cast<int>(DType::f64),
  any,
};

// The launches of a call of `loss`, and their arguments.
struct LossPlan {
  enum class First { clear_counter, mask, mask_sum };
  First first = First::clear_counter;  // the second launch is the loss kernel or the single-pass kernel
  MaskTable mask;                      // First::mask
  MaskSumTable mask_sum;               // First::mask_sum
  LossTable loss;
  bool single_pass = false;
  DType logits = DType::f32;  // dtype of the teacher's logits
  CodecId codec = CodecId::f32;
  uint32_t tiles = 0;    // of locations: how many sums of S there are
  size_t workspace = 0;  // bytes of scratch memory
};
LossPlan plan_loss(const LossParams& params, const DTypes& types);

// Losses of batch or images and of levels, pending factors, and the gradients that are present in the levels.
// Two launches, the first of which may be a memset. `workspace` is device memory of plan.workspace bytes,
// aligned to 16 bytes.
cudaError_t loss(LossPlan& plan, void* workspace, cudaStream_t stream);

// grads[i][b] *= grad_output[b] * pending[i] for every image b of a dense gradient, `images` of them one
// after another. With images == 1, grad_output[0] is for the whole batch. An image for which the product is 1
// is neither read nor written. One launch for up to kMaxTerms gradients.
cudaError_t scale(const DenseTensor* grads, int count, int64_t images, const void* grad_output,
                  const void* pending, cudaStream_t stream);

}  // namespace frs::cuda
