// One tensor of an operator: its element type, its view in the terms of frs/contract.h, the gradient like it.
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
using Tensors = std::vector<Tensor>;

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::Double:
      return DType::f64;
    default:
      STD_TORCH_CHECK(false, name, ": expected float32, float64, float16 or bfloat16");
  }
  return DType::f32;
}

inline DType dtype_of(const Tensors& list, const char* name) {
  if (list.empty()) return DType::f32;
  const DType first = dtype_of(list[0], name);
  for (const Tensor& t : list) STD_TORCH_CHECK(dtype_of(t, name) == first, name, ": levels differ in dtype");
  return first;
}

inline ScalarType accumulation_type(bool double_precision) {
  return double_precision ? ScalarType::Double : ScalarType::Float;
}

// [B, C, *spatial] seen as [B, C, locations].
struct Shape {
  int64_t batch = 0, channels = 0, locations = 0;
};

inline Shape shape_of(const Tensor& t, const char* name, int level) {
  STD_TORCH_CHECK(t.dim() == 3 || t.dim() == 4, name, ", level ", level,
                  ": expected [B, C, L] or [B, C, H, W]");
  const auto size = t.sizes();
  return {size[0], size[1], t.dim() == 4 ? size[2] * size[3] : size[2]};
}

// Strides of size-1 dimensions mean nothing and become 1.
inline TensorView view_of(const Tensor& t, const char* name, int level, void* data) {
  const Shape shape = shape_of(t, name, level);
  const auto size = t.sizes();
  const auto stride = t.strides();
  TensorView view{data, stride[0], shape.channels > 1 ? stride[1] : 1, 1};
  if (t.dim() == 3 && size[2] > 1) view.stride_l = stride[2];
  if (t.dim() == 4) {
    if (size[3] > 1) view.stride_l = stride[3];
    if (size[3] <= 1 && size[2] > 1) view.stride_l = stride[2];
    STD_TORCH_CHECK(
        size[2] <= 1 || size[3] <= 1 || shape.batch * shape.channels == 0 || stride[2] == size[3] * stride[3],
        name, ", level ", level, ": height and width cannot be collapsed into one stride");
  }
  return view;
}

inline TensorView input_view(const Tensor& t, const char* name, int level) {
  return view_of(t, name, level, const_cast<void*>(t.const_data_ptr()));
}
inline TensorView output_view(const Tensor& t, const char* name, int level) {
  return view_of(t, name, level, t.mutable_data_ptr());
}

inline void check_layout(const Term& term, const char* name, int level) {
  auto channel_major = [](const TensorView& v) { return !v.present() || v.stride_c == 1; };
  STD_TORCH_CHECK(term.location_major() || (channel_major(term.student) && channel_major(term.teacher)), name,
                  ", level ", level,
                  ": student and teacher must both be location-major or both channel-major");
}

using Allocate = Tensor (*)(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                            const Tensor& like);

inline Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                            const Tensor& like) {
  int32_t dtype, device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                  strides.data(), dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

// Same shape and dtype as the student's tensor, dense: contiguous if that is location-major, else
// channels-last. frs_kernels.library.grad_like says the same to torch.compile.
inline Tensor grad_like(const Tensor& student, const char* name, int level, Allocate allocate) {
  const int64_t dims = student.dim();
  const auto size = student.sizes();
  const std::vector<int64_t> sizes(size.data(), size.data() + dims);
  const bool channels_last = student.numel() > 0 && view_of(student, name, level, nullptr).stride_l != 1;
  std::vector<int64_t> strides(dims);
  int64_t next = 1;
  auto place = [&](int64_t dim) {
    strides[dim] = next;
    next *= sizes[dim] > 1 ? sizes[dim] : 1;
  };
  if (channels_last) place(1);
  for (int64_t dim = dims - 1; dim > 1; --dim) place(dim);
  if (!channels_last) place(1);
  place(0);
  return allocate(sizes, strides, student);
}

inline const void* scalar_data(const std::optional<Tensor>& t, ScalarType accumulation, const char* name) {
  if (!t.has_value()) return nullptr;
  STD_TORCH_CHECK(t->numel() == 1 && t->scalar_type() == accumulation, name,
                  ": expected a 0-d tensor in the accumulation dtype");
  return t->const_data_ptr();
}

inline void* dense_data(const Tensor& t, int64_t count, ScalarType accumulation, const char* name,
                        int level) {
  STD_TORCH_CHECK(t.numel() == count && t.scalar_type() == accumulation && t.is_contiguous(), name,
                  ", level ", level, ": expected ", count, " contiguous elements in the accumulation dtype");
  return const_cast<void*>(t.const_data_ptr());
}

}  // namespace frs::bind
