#include "bind/arguments.h"

#include "bind/lists.h"

namespace frs::bind {
namespace {

TermLists imitation_lists(const LossArguments& a) {
  const bool present = !a.student_feats.empty();
  return {{a.student_feats, "student_feats", present},
          {a.teacher_feats, "teacher_feats", present},
          {a.channel_weights, "channel_weights", present && !a.channel_weights.empty()},
          "features",
          a.feat_grad};
}

// The teacher's logits are read without the student's where the mask comes from them.
TermLists head_lists(const LossArguments& a) {
  const bool present = !a.student_logits.empty();
  return {{a.student_logits, "student_logits", present},
          {a.teacher_logits, "teacher_logits", present || a.masks.empty()},
          {a.channel_weights, "channel_weights", false},
          "logits",
          a.head_grad};
}

Mode mode_of(const LossArguments& a) {
  if (!a.masks.empty()) return Mode::mask_given;
  return a.feat_grad || a.head_grad ? Mode::mask_first : Mode::single_pass;
}

void set_scalars(LossParams& params, const LossArguments& a, ScalarType accumulation) {
  auto scalar = [&](double value, const std::optional<Tensor>& tensor, const char* name) {
    return scalar_from(value, tensor, accumulation, name);
  };
  params.normalizer = normalizer_from(a.normalizer);
  params.normalizer_value = scalar(a.normalizer_value, a.normalizer_tensor, "normalizer_tensor");
  params.feat_scale = scalar(a.feat_scale, a.feat_scale_tensor, "feat_scale_tensor");
  params.head_scale = scalar(a.head_scale, a.head_scale_tensor, "head_scale_tensor");
  params.beta = a.beta;
}

void allocate_results(LossCall& call, const Tensor& like, ScalarType accumulation) {
  LossParams& params = call.params;
  std::vector<int64_t> losses{3};
  if (params.per_image) losses.push_back(params.levels[0].batch);
  call.losses = empty(losses, accumulation, like);
  call.level_losses = empty({2, params.num_levels}, accumulation, like);
  call.pending = empty({2, params.num_levels}, accumulation, like);
  params.losses = call.losses->mutable_data_ptr();
  params.level_losses = call.level_losses->mutable_data_ptr();
  params.pending = call.pending->mutable_data_ptr();
}

// One allocation for the masks of all levels. Each begins at a multiple of 16 bytes.
void allocate_masks(LossCall& call, const Tensor& like, ScalarType accumulation) {
  auto padded = [](const Level& level) { return (level.batch * level.locations + 3) / 4 * 4; };
  Level* const levels = call.params.levels;
  int64_t size = 0;
  for (int l = 0; l < call.params.num_levels; ++l) size += padded(levels[l]);
  call.masks = empty({size}, accumulation, like);
  char* next = static_cast<char*>(call.masks->mutable_data_ptr());
  for (int l = 0; l < call.params.num_levels; ++l) {
    levels[l].mask = next;
    next += padded(levels[l]) * (accumulation == ScalarType::Double ? 8 : 4);
  }
}

// The kernels walk through a gradient as through a row of numbers, or as through one row per image.
void check_dense(const Tensor& grad, bool per_image) {
  const int64_t elements = grad.numel();
  if (elements == 0) return;
  const auto sizes = grad.sizes(), strides = grad.strides();
  int64_t extent = 1;  // elements from the first to the last one: all of them exactly if the tensor is dense
  for (size_t dim = 0; dim < sizes.size(); ++dim) extent += (sizes[dim] - 1) * strides[dim];
  STD_TORCH_CHECK(extent == elements, "grads: a gradient is not dense");
  STD_TORCH_CHECK(!per_image || sizes[0] == 1 || sizes[0] * strides[0] == extent,
                  "grads: the images of a gradient are not dense, one after another");
}

}  // namespace

MaskCall prepare_mask(const Tensors& teacher_logits) {
  MaskCall call;
  STD_TORCH_CHECK(teacher_logits.size() <= kMaxLevels, "teacher_logits: ", teacher_logits.size(),
                  " levels, the kernels take at most ", kMaxLevels);
  call.num_levels = static_cast<int>(teacher_logits.size());
  call.type = dtype_of(teacher_logits, "teacher_logits");
  for (int l = 0; l < call.num_levels; ++l) {
    const Tensor& logits = teacher_logits[l];
    const auto [shape, view] = input_of(logits, "teacher_logits", l);
    Level& level = call.levels[l];
    level.batch = shape.batch;
    level.locations = shape.locations;
    level.head.channels = shape.channels;
    level.head.teacher = view;
    check_layout(level.head, "teacher_logits", l);
    std::vector<int64_t> sizes{shape.batch};
    for (int64_t dim = 2; dim < logits.dim(); ++dim) sizes.push_back(logits.size(dim));
    call.masks.push_back(empty(sizes, accumulation_type(call.type == DType::f64), logits));
    level.mask = call.masks.back().mutable_data_ptr();
  }
  return call;
}

const Tensors& any_students(const LossArguments& a) {
  const Tensors& students = a.student_feats.empty() ? a.student_logits : a.student_feats;
  STD_TORCH_CHECK(!students.empty(), "student_feats and student_logits: one of them must be given");
  return students;
}

LossCall prepare_loss(const LossArguments& a, Allocate allocate_grad) {
  const Tensors& students = any_students(a);
  const size_t levels = students.size();
  const TermLists imitation = imitation_lists(a), head = head_lists(a);
  const List masks{a.masks, "masks", !a.masks.empty()};
  check_level_count(levels);
  check_lengths(imitation, levels);
  check_lengths(head, levels);
  check_length(masks, levels);

  LossCall call;
  LossParams& params = call.params;
  call.types = {types_of(imitation), types_of(head)};
  const bool double_precision = call.types.double_precision();
  const ScalarType accumulation = accumulation_type(double_precision);
  check_precision(imitation, call.types.imitation, double_precision);
  check_precision(head, call.types.head, double_precision);

  params.num_levels = static_cast<int>(levels);
  params.mode = mode_of(a);
  set_scalars(params, a, accumulation);
  params.per_image = a.per_image;

  for (int l = 0; l < params.num_levels; ++l) {
    Level& level = params.levels[l];
    const char* const name = imitation.students.given ? "student_feats" : "student_logits";
    const Shape shape = input_of(students[l], name, l).shape;
    level.batch = shape.batch;
    level.locations = shape.locations;
    if (a.per_image) check_batch(l, level.batch, params.levels[0].batch);
    auto term = [&](const TermLists& lists, Tensors& grads) {
      return term_of(lists, l, level.batch, level.locations, accumulation, allocate_grad, grads);
    };
    level.imitation = term(imitation, call.feat_grads);
    level.head = term(head, call.logit_grads);
    if (masks.given) {
      level.mask = dense_data(masks.tensors[l], level.batch * level.locations, accumulation, masks.name, l);
    }
  }
  if (params.mode == Mode::mask_first) allocate_masks(call, students[0], accumulation);
  allocate_results(call, students[0], accumulation);
  return call;
}

ScaleCall prepare_scale(const Tensors& grads, const Tensor& grad_output, const Tensor& pending) {
  ScaleCall call;
  if (grads.empty()) return call;
  const ScalarType accumulation = accumulation_type(dtype_of(grads[0], "grads") == DType::f64);
  const bool per_image = grad_output.dim() > 0;
  STD_TORCH_CHECK(grad_output.dim() <= 1, "grad_output: expected [] or [B]");
  if (per_image) call.images = grad_output.size(0);
  call.grad_output = dense_data(grad_output, call.images, accumulation, "grad_output", 0);
  call.pending = dense_data(pending, static_cast<int64_t>(grads.size()), accumulation, "pending", 0);
  for (const Tensor& grad : grads) {
    STD_TORCH_CHECK(!per_image || grad.size(0) == call.images, "grads: a gradient has ", grad.size(0),
                    " images, grad_output ", call.images);
    check_dense(grad, per_image);
    const DType type = dtype_of(grad, "grads");
    STD_TORCH_CHECK(accumulation_type(type == DType::f64) == accumulation,
                    "grads: float64 goes only with float64");
    call.grads.push_back({grad.mutable_data_ptr(), grad.numel(), type});
  }
  return call;
}

}  // namespace frs::bind
