// The arguments of the operators as the kernels take them (frs/contract.h), with the outputs allocated.
// Shared by the CPU and the CUDA binding.
//
// Python (frs_kernels/checks.py, inputs.py) has brought the arguments into this form, and words the errors
// that a user should see. The checks here only keep a wrong caller from reading wrong memory.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "bind/tensors.h"

namespace frs::bind {

// A call of the operator `mask`, with the tensors that its levels point into.
struct MaskCall {
  int num_levels = 0;
  std::array<Level, kMaxLevels> levels;
  DType type = DType::f32;  // of the logits
  Tensors masks;            // out: [B, *spatial] in the accumulation dtype
};
MaskCall prepare_mask(const Tensors& teacher_logits);

// The arguments of the operator `loss`, named and ordered as in its schema (frs_kernels/contract.py).
struct LossArguments {
  const Tensors &student_feats, &teacher_feats, &student_logits, &teacher_logits, &masks, &channel_weights;
  int64_t normalizer;
  double normalizer_value;
  const std::optional<Tensor>& normalizer_tensor;
  double feat_scale;
  const std::optional<Tensor>& feat_scale_tensor;
  double head_scale;
  const std::optional<Tensor>& head_scale_tensor;
  double beta;
  bool feat_grad, head_grad, per_image;
};
// losses, level_losses, pending, feat_grads, logit_grads
using LossResult = std::tuple<Tensor, Tensor, Tensor, Tensors, Tensors>;

// The operator `loss` with the signature of its schema, carried out by `run`.
template <LossResult (*run)(const LossArguments&)>
LossResult loss_operator(const Tensors& student_feats, const Tensors& teacher_feats,
                         const Tensors& student_logits, const Tensors& teacher_logits, const Tensors& masks,
                         const Tensors& channel_weights, int64_t normalizer, double normalizer_value,
                         const std::optional<Tensor>& normalizer_tensor, double feat_scale,
                         const std::optional<Tensor>& feat_scale_tensor, double head_scale,
                         const std::optional<Tensor>& head_scale_tensor, double beta, bool feat_grad,
                         bool head_grad, bool per_image) {
  return run({student_feats, teacher_feats, student_logits, teacher_logits, masks, channel_weights,
              normalizer, normalizer_value, normalizer_tensor, feat_scale, feat_scale_tensor, head_scale,
              head_scale_tensor, beta, feat_grad, head_grad, per_image});
}

// The students of the first term that is present; an error if none is.
const Tensors& any_students(const LossArguments& arguments);

// A call of the operator `loss`, with the tensors that its levels point into.
struct LossCall {
  LossParams params;
  DTypes types;
  std::optional<Tensor> losses, level_losses, pending;  // out
  Tensors feat_grads, logit_grads;                      // out
  std::optional<Tensor> masks;  // Mode::mask_first: S of all levels, one after another

  LossResult result() const { return {*losses, *level_losses, *pending, feat_grads, logit_grads}; }
};
LossCall prepare_loss(const LossArguments& arguments, Allocate allocate_grad = empty_strided);

// A call of the operator `scale_`.
struct ScaleCall {
  std::vector<DenseTensor> grads;
  int64_t images = 1;                 // 1: one factor for all images
  const void* grad_output = nullptr;  // [images] in the accumulation dtype
  const void* pending = nullptr;      // [grads] in the accumulation dtype
};
ScaleCall prepare_scale(const Tensors& grads, const Tensor& grad_output, const Tensor& pending);

}  // namespace frs::bind
