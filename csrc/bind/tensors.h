// Single tensors of an operator: element types, shapes, strides as the kernels take them, and gradients.
// `name` and `level` say in error messages which tensor is meant.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "frs/contract.h"

namespace frs::bind {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;  // one per level

DType dtype_of(const Tensor& tensor, const char* name);
DType dtype_of(const Tensors& tensors, const char* name);  // which all of them must have

inline ScalarType accumulation_type(bool double_precision) {
  return double_precision ? ScalarType::Double : ScalarType::Float;
}

// [B, C, *spatial] seen as [B, C, locations].
struct Shape {
  int64_t batch = 0, channels = 0, locations = 0;
};

struct Input {
  Shape shape;
  TensorView view;
};
Input input_of(const Tensor& tensor, const char* name, int level);
TensorView output_view(const Tensor& tensor, const char* name, int level);

// Rejects a term whose student and teacher differ in layout.
void check_layout(const Term& term, const char* name, int level);

using Allocate = Tensor (*)(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                            const Tensor& like);
Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                     const Tensor& like);
// Contiguous, in the accumulation dtype, on the device of `like`. torch::stable::new_empty goes through
// torch's dispatcher, which takes several times as long.
Tensor empty(const std::vector<int64_t>& sizes, ScalarType accumulation, const Tensor& like);

// An empty gradient of a student tensor: its shape, dtype and layout, dense. frs_kernels.layouts.grad_like is
// the same for torch.compile.
Tensor grad_like(const Tensor& student, const char* name, int level, Allocate allocate_grad);

// The element of a 0-d tensor in the accumulation dtype; nullptr without a tensor.
const void* scalar_data(const std::optional<Tensor>& tensor, ScalarType accumulation, const char* name);

// `count` contiguous elements in the accumulation dtype.
void* dense_data(const Tensor& tensor, int64_t count, ScalarType accumulation, const char* name, int level);

}  // namespace frs::bind
