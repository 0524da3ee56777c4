// What the binding calls: the CUDA entry points. No torch. They queue work on `stream` and return; all memory
// is the caller's, nothing is allocated and nothing waits, so that a graph capture may record them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "frs/contract.h"
#include "table.h"

namespace frs::cuda {

// Level::mask [B, L] = max over k of sigmoid(T [B, K, L]), where T is Level::head.teacher. One launch.
cudaError_t mask(const Level* levels, int num_levels, DType teacher_logit, cudaStream_t stream);

// How a call of `loss` is laid out on the device; `workspace` bytes of memory, aligned to 16, are needed for
// it.
struct LossPlan {
  LossTable table;
  ScoreTable scores;    // first phase, where S comes from the logits
  WeightTable weights;  // first phase, where S is given and its sum is needed
  enum class First { none, scores, weights } first = First::none;
  bool single_pass = false;
  DType logit_type = DType::f32;
  int codec = 0;  // a DType, or kAnyCodec
  uint32_t tiles = 0;
  size_t workspace = 0;
};
constexpr int kAnyCodec = 4;  // the lists' types differ, or are rare enough to be told apart at run time
LossPlan plan_loss(const LossParams& params, const DTypes& types);

// losses[3], pending[2, num_levels] and the gradients. Two launches (the first may be a memset).
cudaError_t loss(LossPlan& plan, void* workspace, cudaStream_t stream);

// spans[i].data[0..size) *= factor[0] * pending[i]; nothing is read or written where the product is 1. One
// launch.
cudaError_t scale(const DenseTensor* spans, int count, const void* factor, const void* pending,
                  cudaStream_t stream);

namespace detail {  // the second phases, each in a file of its own
cudaError_t launch_loss(const LossPlan& plan, cudaStream_t stream);
cudaError_t launch_single_pass(const LossPlan& plan, cudaStream_t stream);
cudaError_t launch_scores(const ScoreTable& table, uint32_t tiles, DType type, cudaStream_t stream);
cudaError_t launch_weight_sums(const WeightTable& table, uint32_t tiles, bool double_precision,
                               cudaStream_t stream);

template <class Table>
cudaError_t launch(void (*kernel)(Table), uint32_t blocks, const Table& table, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(tiles::kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, table);
}
}  // namespace detail

}  // namespace frs::cuda
