// From the operators' lists of tensors to the plain tables of frs/contract.h. Shared by cpu.cpp and cuda.cpp.
// Python (levels.py, ops.py) has normalised the arguments and worded the errors a user should see; the checks
// here only keep a wrong caller from reading wrong memory.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace frs::bind {

// A call of the operator `mask`: the table and the tensors it points into.
struct MaskCall {
  int num_levels = 0;
  std::array<Level, kMaxLevels> levels;
  DType type = DType::f32;
  Tensors masks;  // [B, *spatial] in the accumulation type
};

inline MaskCall prepare_mask(const Tensors& teacher_logits) {
  MaskCall call;
  STD_TORCH_CHECK(teacher_logits.size() <= kMaxLevels, "teacher_logits: at most ", kMaxLevels, " levels");
  call.num_levels = static_cast<int>(teacher_logits.size());
  call.type = dtype_of(teacher_logits, "teacher_logits");
  for (int l = 0; l < call.num_levels; ++l) {
    const Tensor& logits = teacher_logits[l];
    const Shape shape = shape_of(logits, "teacher_logits", l);
    Level& level = call.levels[l];
    level.batch = shape.batch;
    level.locations = shape.locations;
    level.head.channels = shape.channels;
    level.head.teacher = input_view(logits, "teacher_logits", l);
    check_layout(level.head, "teacher_logits", l);
    std::vector<int64_t> sizes{shape.batch};
    for (int64_t dim = 2; dim < logits.dim(); ++dim) sizes.push_back(logits.size(dim));
    call.masks.push_back(torch::stable::new_empty(logits, sizes, accumulation_type(call.type == DType::f64)));
    level.mask = call.masks.back().mutable_data_ptr();
  }
  return call;
}

// The arguments of the operator `loss`, in the order of its schema.
struct LossArguments {
  const Tensors &student_feats, &teacher_feats, &student_logits, &teacher_logits, &weights, &channel_weights;
  int64_t normalizer;
  double divisor;
  const std::optional<Tensor>& divisor_tensor;
  double feat_scale;
  const std::optional<Tensor>& feat_scale_tensor;
  double head_scale;
  const std::optional<Tensor>& head_scale_tensor;
  double beta;
  bool feat_grad, head_grad;
};
using LossResult = std::tuple<Tensor, Tensor, Tensors, Tensors>;  // losses, pending, feat_grads, logit_grads

// The operator `loss` as it is registered, for the function of a backend that carries it out.
template <LossResult (*kRun)(const LossArguments&)>
LossResult loss_operator(const Tensors& student_feats, const Tensors& teacher_feats,
                         const Tensors& student_logits, const Tensors& teacher_logits, const Tensors& weights,
                         const Tensors& channel_weights, int64_t normalizer, double divisor,
                         const std::optional<Tensor>& divisor_tensor, double feat_scale,
                         const std::optional<Tensor>& feat_scale_tensor, double head_scale,
                         const std::optional<Tensor>& head_scale_tensor, double beta, bool feat_grad,
                         bool head_grad) {
  return kRun({student_feats, teacher_feats, student_logits, teacher_logits, weights, channel_weights,
               normalizer, divisor, divisor_tensor, feat_scale, feat_scale_tensor, head_scale,
               head_scale_tensor, beta, feat_grad, head_grad});
}

// Each level's S begins at a multiple of 16 bytes.
inline int64_t padded(int64_t count) { return (count + 3) / 4 * 4; }

// A call of the operator `loss`: the parameters and the tensors they point into.
struct LossCall {
  LossParams params;
  DTypes types;
  std::optional<Tensor> losses, pending;  // [3] and [2, levels] in the accumulation type
  Tensors feat_grads, logit_grads;
  // All levels' S [B, L] one after another, in Mode::mask_first.
  std::optional<Tensor> masks;
};

inline LossCall prepare_loss(const LossArguments& a, Allocate allocate = empty_strided) {
  LossCall call;
  LossParams& p = call.params;
  const bool imitation = !a.student_feats.empty(), head = !a.student_logits.empty();
  const bool mask_from_logits = a.weights.empty();
  p.mode = !mask_from_logits            ? Mode::mask_given
           : a.feat_grad || a.head_grad ? Mode::mask_first
                                        : Mode::single_pass;
  const bool logits_read = head || mask_from_logits;
  const Tensors& any = imitation ? a.student_feats : head ? a.student_logits : a.weights;
  const size_t levels = any.size();
  STD_TORCH_CHECK(levels >= 1 && levels <= kMaxLevels, "expected 1 to ", kMaxLevels, " levels");
  auto check_length = [&](const Tensors& list, bool present, const char* name) {
    STD_TORCH_CHECK(!present || list.size() == levels, name, ": ", list.size(), " levels instead of ",
                    levels);
  };
  check_length(a.student_feats, imitation, "student_feats");
  check_length(a.teacher_feats, imitation, "teacher_feats");
  check_length(a.student_logits, head, "student_logits");
  check_length(a.teacher_logits, logits_read, "teacher_logits");
  check_length(a.weights, !mask_from_logits, "weights");
  check_length(a.channel_weights, imitation && !a.channel_weights.empty(), "channel_weights");

  if (imitation) call.types.imitation.student = dtype_of(a.student_feats, "student_feats");
  if (imitation) call.types.imitation.teacher = dtype_of(a.teacher_feats, "teacher_feats");
  if (head) call.types.head.student = dtype_of(a.student_logits, "student_logits");
  if (logits_read) call.types.head.teacher = dtype_of(a.teacher_logits, "teacher_logits");
  const bool wide = call.types.double_precision();
  auto check_wide = [&](DType type, bool present, const char* name) {
    STD_TORCH_CHECK(!present || (type == DType::f64) == wide, name, ": float64 goes only with float64");
  };
  check_wide(call.types.imitation.student, imitation, "student_feats");
  check_wide(call.types.imitation.teacher, imitation, "teacher_feats");
  check_wide(call.types.head.student, head, "student_logits");
  check_wide(call.types.head.teacher, logits_read, "teacher_logits");
  const ScalarType accumulation = accumulation_type(wide);

  STD_TORCH_CHECK(a.normalizer >= 0 && a.normalizer <= 4, "normalizer: unknown code ", a.normalizer);
  p.normalizer = static_cast<Normalizer>(a.normalizer);
  p.normalizer_value = {a.divisor, scalar_data(a.divisor_tensor, accumulation, "divisor_tensor")};
  p.feat_scale = {a.feat_scale, scalar_data(a.feat_scale_tensor, accumulation, "feat_scale_tensor")};
  p.head_scale = {a.head_scale, scalar_data(a.head_scale_tensor, accumulation, "head_scale_tensor")};
  p.beta = a.beta;
  p.num_levels = static_cast<int>(levels);
  call.losses = torch::stable::new_empty(any[0], {3}, accumulation);
  p.losses = call.losses->mutable_data_ptr();
  call.pending = torch::stable::new_empty(any[0], {2, static_cast<int64_t>(levels)}, accumulation);
  p.pending = call.pending->mutable_data_ptr();

  int64_t mask_size = 0;
  for (int l = 0; l < p.num_levels; ++l) {
    Level& v = p.levels[l];
    auto same = [&](const Tensor& t, int64_t channels, const char* name) {
      const Shape s = shape_of(t, name, l);
      STD_TORCH_CHECK(s.batch == v.batch && s.locations == v.locations && s.channels == channels, name,
                      ", level ", l, ": [", s.batch, ", ", s.channels, ", ", s.locations, "] instead of [",
                      v.batch, ", ", channels, ", ", v.locations, "]");
    };
    if (imitation || logits_read) {
      const Shape s = imitation ? shape_of(a.student_feats[l], "student_feats", l)
                                : shape_of(a.teacher_logits[l], "teacher_logits", l);
      v.batch = s.batch;
      v.locations = s.locations;
    }
    if (imitation) {
      v.imitation.channels = shape_of(a.student_feats[l], "student_feats", l).channels;
      same(a.teacher_feats[l], v.imitation.channels, "teacher_feats");
      v.imitation.student = input_view(a.student_feats[l], "student_feats", l);
      v.imitation.teacher = input_view(a.teacher_feats[l], "teacher_feats", l);
      if (!a.channel_weights.empty())
        v.imitation.channel_weight = dense_data(a.channel_weights[l], v.batch * v.imitation.channels,
                                                accumulation, "channel_weights", l);
      check_layout(v.imitation, "features", l);
      if (a.feat_grad) {
        call.feat_grads.push_back(grad_like(a.student_feats[l], "student_feats", l, allocate));
        v.imitation.grad = output_view(call.feat_grads[l], "feat_grads", l);
      }
    }
    if (logits_read) {
      v.head.channels = shape_of(a.teacher_logits[l], "teacher_logits", l).channels;
      same(a.teacher_logits[l], v.head.channels, "teacher_logits");
      v.head.teacher = input_view(a.teacher_logits[l], "teacher_logits", l);
    }
    if (head) {
      same(a.student_logits[l], v.head.channels, "student_logits");
      v.head.student = input_view(a.student_logits[l], "student_logits", l);
      if (a.head_grad) {
        call.logit_grads.push_back(grad_like(a.student_logits[l], "student_logits", l, allocate));
        v.head.grad = output_view(call.logit_grads[l], "logit_grads", l);
      }
    }
    check_layout(v.head, "logits", l);
    const int64_t count = v.batch * v.locations;
    if (!mask_from_logits) v.mask = dense_data(a.weights[l], count, accumulation, "weights", l);
    mask_size += padded(count);
  }

  if (p.mode == Mode::mask_first) {
    call.masks = torch::stable::new_empty(any[0], {mask_size}, accumulation);
    char* next = static_cast<char*>(call.masks->mutable_data_ptr());
    for (int l = 0; l < p.num_levels; ++l) {
      p.levels[l].mask = next;
      next += padded(p.levels[l].batch * p.levels[l].locations) * (wide ? 8 : 4);
    }
  }
  return call;
}

// A call of the operator `scale_`.
struct ScaleCall {
  std::vector<DenseTensor> grads;
  const void* factor = nullptr;   // [] in the accumulation type
  const void* pending = nullptr;  // [grads] in the accumulation type
};

inline ScaleCall prepare_scale(const Tensors& grads, const Tensor& factor, const Tensor& pending) {
  ScaleCall call;
  if (grads.empty()) return call;
  const ScalarType accumulation = accumulation_type(dtype_of(grads[0], "grads") == DType::f64);
  call.factor = dense_data(factor, 1, accumulation, "factor", 0);
  call.pending = dense_data(pending, static_cast<int64_t>(grads.size()), accumulation, "pending", 0);
  for (const Tensor& t : grads) {
    int64_t extent = 1;  // elements from the first to the last one: equal to numel exactly if dense
    for (int64_t dim = 0; dim < t.dim(); ++dim) extent += (t.size(dim) - 1) * t.stride(dim);
    STD_TORCH_CHECK(t.numel() == 0 || extent == t.numel(), "grads: a gradient is not dense");
    const DType type = dtype_of(t, "grads");
    STD_TORCH_CHECK(accumulation_type(type == DType::f64) == accumulation,
                    "grads: float64 goes only with float64");
    call.grads.push_back({t.mutable_data_ptr(), t.numel(), type});
  }
  return call;
}

}  // namespace frs::bind
