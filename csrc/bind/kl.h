// The arguments of the operator `kl` as the kernels take them, with the outputs allocated.
#pragma once

#include <optional>
#include <tuple>

#include "bind/tensors.h"

namespace frs::bind {

// Named and ordered as in its schema (frs_kernels/contract.py).
struct KLArguments {
  const Tensors &student, &teacher, &weights;
  bool over_locations;
  int64_t groups;
  double temperature;
  int64_t normalizer;
  double normalizer_value;
  const std::optional<Tensor>& normalizer_tensor;
  double scale;
  const std::optional<Tensor>& scale_tensor;
  bool grad, per_image;
};
using KLResult = std::tuple<Tensor, Tensor, Tensors>;  // loss, pending, grads

// The operator `kl` with the signature of its schema, carried out by `run`.
template <KLResult (*run)(const KLArguments&)>
KLResult kl_operator(const Tensors& student, const Tensors& teacher, const Tensors& weights,
                     bool over_locations, int64_t groups, double temperature, int64_t normalizer,
                     double normalizer_value, const std::optional<Tensor>& normalizer_tensor, double scale,
                     const std::optional<Tensor>& scale_tensor, bool grad, bool per_image) {
  return run({student, teacher, weights, over_locations, groups, temperature, normalizer, normalizer_value,
              normalizer_tensor, scale, scale_tensor, grad, per_image});
}

// A call of the operator `kl`, with the tensors that its levels point into.
struct KLCall {
  KLParams params;
  TermTypes types;
  std::optional<Tensor> loss, pending;  // out
  Tensors grads;                        // out

  KLResult result() const { return {*loss, *pending, grads}; }
};
KLCall prepare_kl(const KLArguments& arguments, Allocate allocate_grad = empty_strided);

}  // namespace frs::bind
