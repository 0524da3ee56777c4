#include "bind/lists.h"

namespace frs::bind {
namespace {

DType type_of(const List& list) { return list.given ? dtype_of(list.tensors, list.name) : DType::f32; }

void check_shape(const List& list, int l, const Shape& s, const Shape& expected) {
  STD_TORCH_CHECK(
      s.batch == expected.batch && s.channels == expected.channels && s.locations == expected.locations,
      list.name, ", level ", l, ": [", s.batch, ", ", s.channels, ", ", s.locations, "] instead of [",
      expected.batch, ", ", expected.channels, ", ", expected.locations, "]");
}

}  // namespace

void check_level_count(size_t levels) {
  STD_TORCH_CHECK(levels <= kMaxLevels, levels, " levels, the kernels take at most ", kMaxLevels);
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

TermTypes types_of(const TermLists& term) { return {type_of(term.students), type_of(term.teachers)}; }

void check_precision(const TermLists& term, const TermTypes& types, bool double_precision) {
  auto check = [&](const List& list, DType type) {
    STD_TORCH_CHECK(!list.given || (type == DType::f64) == double_precision, list.name,
                    ": float64 goes only with float64");
  };
  check(term.students, types.student);
  check(term.teachers, types.teacher);
}

Term term_of(const TermLists& lists, int l, int64_t batch, int64_t locations, ScalarType accumulation,
             Allocate allocate_grad, Tensors& grads) {
  Term term;
  if (!lists.teachers.given) return term;
  auto read = [&](const List& list) { return input_of(list.tensors[l], list.name, l); };
  const Input teacher = read(lists.teachers);
  const Input student = lists.students.given ? read(lists.students) : Input{teacher.shape, {}};
  const Shape expected{batch, student.shape.channels, locations};
  check_shape(lists.teachers, l, teacher.shape, expected);
  check_shape(lists.students, l, student.shape, expected);
  term.channels = expected.channels;
  term.teacher = teacher.view;
  term.student = student.view;
  check_layout(term, lists.name, l);
  if (lists.channel_weights.given) {
    term.channel_weight = dense_data(lists.channel_weights.tensors[l], batch * term.channels, accumulation,
                                     lists.channel_weights.name, l);
  }
  if (lists.students.given && lists.wants_grad) {
    grads.push_back(grad_like(lists.students.tensors[l], lists.students.name, l, allocate_grad));
    term.grad = output_view(grads.back(), lists.students.name, l);
  }
  return term;
}

void check_batch(int l, int64_t batch, int64_t batch_of_first) {
  STD_TORCH_CHECK(batch == batch_of_first, "per_image: level ", l, " has ", batch, " images, level 0 has ",
                  batch_of_first);
}

Normalizer normalizer_from(int64_t code) {
  STD_TORCH_CHECK(code >= 0 && code <= static_cast<int>(Normalizer::value), "normalizer: unknown code ",
                  code);
  return static_cast<Normalizer>(code);
}

Scalar scalar_from(double value, const std::optional<Tensor>& tensor, ScalarType accumulation,
                   const char* name) {
  return {value, scalar_data(tensor, accumulation, name)};
}

}  // namespace frs::bind
