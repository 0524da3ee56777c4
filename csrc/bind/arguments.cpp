#include "bind/arguments.h"

namespace frs::bind {
namespace {

// One list of an operator. `given` is false where the call does not read it, empty or not.
struct List {
  const Tensors& tensors;
  const char* name;
  bool given;
};

// The lists of one term.
struct TermLists {
  List students, teachers, channel_weights;
  const char* name;
  bool wants_grad;
};

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

void check_length(const List& list, size_t levels) {
  STD_TORCH_CHECK(!list.given || list.tensors.size() == levels, list.name, ": ", list.tensors.size(),
                  " levels instead of ", levels);
}

void check_lengths(const TermLists& term, size_t levels) {
  check_length(term.students, levels);
  check_length(term.teachers, levels);
  check_length(term.channel_weights, levels);
}

DType type_of(const List& list) { return list.given ? dtype_of(list.tensors, list.name) : DType::f32; }

TermTypes types_of(const TermLists& term) { return {type_of(term.students), type_of(term.teachers)}; }

void check_precision(const TermLists& term, const TermTypes& types, bool double_precision) {
  auto check = [&](const List& list, DType type) {
    STD_TORCH_CHECK(!list.given || (type == DType::f64) == double_precision, list.name,
                    ": float64 goes only with float64");
  };
  check(term.students, types.student);
  check(term.teachers, types.teacher);
}

void check_shape(const List& list, int l, const Shape& s, const Shape& expected) {
  STD_TORCH_CHECK(
      s.batch == expected.batch && s.channels == expected.channels && s.locations == expected.locations,
      list.name, ", level ", l, ": [", s.batch, ", ", s.channels, ", ", s.locations, "] instead of [",
      expected.batch, ", ", expected.channels, ", ", expected.locations, "]");
}

// One term of level `l`, whose batch and locations are known. A gradient that is wanted is added to `grads`.
Term term_of(const TermLists& lists, int l, const Level& level, ScalarType accumulation,
             Allocate allocate_grad, Tensors& grads) {
  Term term;
  if (!lists.teachers.given) return term;
  auto read = [&](const List& list) { return input_of(list.tensors[l], list.name, l); };
  const Input teacher = read(lists.teachers);
  const Input student = lists.students.given ? read(lists.students) : Input{teacher.shape, {}};
  const Shape expected{level.batch, student.shape.channels, level.locations};
  check_shape(lists.teachers, l, teacher.shape, expected);
  check_shape(lists.students, l, student.shape, expected);
  term.channels = expected.channels;
  term.teacher = teacher.view;
  term.student = student.view;
  check_layout(term, lists.name, l);
  if (lists.channel_weights.given) {
    term.channel_weight = dense_data(lists.channel_weights.tensors[l], level.batch * term.channels,
                                     accumulation, lists.channel_weights.name, l);
  }
  if (lists.students.given && lists.wants_grad) {
    grads.push_back(grad_like(lists.students.tensors[l], lists.students.name, l, allocate_grad));
    term.grad = output_view(grads.back(), lists.students.name, l);
  }
  return term;
}

Mode mode_of(const LossArguments& a) {
  if (!a.masks.empty()) return Mode::mask_given;
  return a.feat_grad || a.head_grad ? Mode::mask_first : Mode::single_pass;
}

void set_scalars(LossParams& params, const LossArguments& a, ScalarType accumulation) {
  STD_TORCH_CHECK(a.normalizer >= 0 && a.normalizer <= static_cast<int>(Normalizer::value),
                  "normalizer: unknown code ", a.normalizer);
  auto scalar = [&](double value, const std::optional<Tensor>& tensor, const char* name) {
    return Scalar{value, scalar_data(tensor, accumulation, name)};
  };
  params.normalizer = static_cast<Normalizer>(a.normalizer);
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
  STD_TORCH_CHECK(levels <= kMaxLevels, levels, " levels, the kernels take at most ", kMaxLevels);
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
    STD_TORCH_CHECK(!a.per_image || level.batch == params.levels[0].batch, "per_image: level ", l, " has ",
                    level.batch, " images, level 0 has ", params.levels[0].batch);
    level.imitation = term_of(imitation, l, level, accumulation, allocate_grad, call.feat_grads);
    level.head = term_of(head, l, level, accumulation, allocate_grad, call.logit_grads);
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
