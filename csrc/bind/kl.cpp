#include "bind/kl.h"

#include "bind/lists.h"

namespace frs::bind {
namespace {

void check_distributions(const KLArguments& a) {
  STD_TORCH_CHECK(!a.student.empty(), "student: at least one level must be given");
  STD_TORCH_CHECK(a.groups >= 1 && (a.groups == 1 || !a.over_locations), "groups: ", a.groups,
                  " instead of at least 1, or of 1 over locations");
  STD_TORCH_CHECK(a.temperature > 0, "temperature: ", a.temperature, " instead of a positive number");
}

}  // namespace

KLCall prepare_kl(const KLArguments& a, Allocate allocate_grad) {
  check_distributions(a);
  const size_t levels = a.student.size();
  const TermLists lists{{a.student, "student", true},
                        {a.teacher, "teacher", true},
                        {a.weights, "channel_weights", false},
                        "logits",
                        a.grad};
  const List weights{a.weights, "weights", !a.weights.empty()};
  check_level_count(levels);
  check_lengths(lists, levels);
  check_length(weights, levels);

  KLCall call;
  KLParams& params = call.params;
  call.types = types_of(lists);
  const bool double_precision = call.types.student == DType::f64 || call.types.teacher == DType::f64;
  const ScalarType accumulation = accumulation_type(double_precision);
  check_precision(lists, call.types, double_precision);

  params.num_levels = static_cast<int>(levels);
  params.over_locations = a.over_locations;
  params.groups = a.groups;
  params.temperature = a.temperature;
  params.normalizer = normalizer_from(a.normalizer);
  params.normalizer_value =
      scalar_from(a.normalizer_value, a.normalizer_tensor, accumulation, "normalizer_tensor");
  params.scale = scalar_from(a.scale, a.scale_tensor, accumulation, "scale_tensor");
  params.per_image = a.per_image;
  for (int l = 0; l < params.num_levels; ++l) {
    KLLevel& level = params.levels[l];
    const Shape shape = input_of(a.student[l], "student", l).shape;
    level.batch = shape.batch;
    level.locations = shape.locations;
    STD_TORCH_CHECK(shape.channels % a.groups == 0, "groups: ", a.groups, " do not divide the ",
                    shape.channels, " channels of level ", l);
    if (a.per_image) check_batch(l, level.batch, params.levels[0].batch);
    level.logits = term_of(lists, l, level.batch, level.locations, accumulation, allocate_grad, call.grads);
    if (weights.given) {
      const int64_t per_image = a.over_locations ? shape.channels : shape.locations;
      level.weight = dense_data(a.weights[l], level.batch * per_image, accumulation, weights.name, l);
    }
  }
  std::vector<int64_t> images;
  if (a.per_image) images.push_back(params.levels[0].batch);
  call.loss = empty(images, accumulation, a.student[0]);
  call.pending = empty({params.num_levels}, accumulation, a.student[0]);
  params.loss = call.loss->mutable_data_ptr();
  params.pending = call.pending->mutable_data_ptr();
  return call;
}

}  // namespace frs::bind
