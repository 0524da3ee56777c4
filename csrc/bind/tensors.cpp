#include "bind/tensors.h"

namespace frs::bind {
namespace {

// The strides of dimensions of size 1 are never used, and become 1.
TensorView view_of(const Tensor& tensor, const char* name, int level, void* data) {
  const Shape shape = shape_of(tensor, name, level);
  const auto size = tensor.sizes();
  const auto stride = tensor.strides();
  TensorView view{data, stride[0], shape.channels > 1 ? stride[1] : 1, 1};
  if (tensor.dim() == 3 && size[2] > 1) view.stride_l = stride[2];
  if (tensor.dim() == 4) {
    if (size[3] > 1) view.stride_l = stride[3];
    if (size[3] <= 1 && size[2] > 1) view.stride_l = stride[2];
    STD_TORCH_CHECK(
        size[2] <= 1 || size[3] <= 1 || shape.batch * shape.channels == 0 || stride[2] == size[3] * stride[3],
        name, ", level ", level, ": height and width cannot be collapsed into one stride");
  }
  return view;
}

}  // namespace

DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
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

DType dtype_of(const Tensors& tensors, const char* name) {
  if (tensors.empty()) return DType::f32;
  const DType first = dtype_of(tensors[0], name);
  for (const Tensor& tensor : tensors)
    STD_TORCH_CHECK(dtype_of(tensor, name) == first, name, ": levels differ in dtype");
  return first;
}

Shape shape_of(const Tensor& tensor, const char* name, int level) {
  STD_TORCH_CHECK(tensor.dim() == 3 || tensor.dim() == 4, name, ", level ", level,
                  ": expected [B, C, L] or [B, C, H, W]");
  const auto size = tensor.sizes();
  return {size[0], size[1], tensor.dim() == 4 ? size[2] * size[3] : size[2]};
}

TensorView input_view(const Tensor& tensor, const char* name, int level) {
  return view_of(tensor, name, level, const_cast<void*>(tensor.const_data_ptr()));
}

TensorView output_view(const Tensor& tensor, const char* name, int level) {
  return view_of(tensor, name, level, tensor.mutable_data_ptr());
}

void check_layout(const Term& term, const char* name, int level) {
  auto channel_major = [](const TensorView& view) { return !view.present() || view.stride_c == 1; };
  STD_TORCH_CHECK(term.location_major() || (channel_major(term.student) && channel_major(term.teacher)), name,
                  ", level ", level,
                  ": student and teacher must both be location-major or both channel-major");
}

Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
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

Tensor grad_like(const Tensor& student, const char* name, int level, Allocate allocate) {
  const int64_t dims = student.dim();
  const auto size = student.sizes();
  const std::vector<int64_t> sizes(size.data(), size.data() + dims);
  const bool channel_major = student.numel() > 0 && view_of(student, name, level, nullptr).stride_l != 1;
  std::vector<int64_t> strides(dims);
  int64_t stride = 1;
  auto next_outer = [&](int64_t dim) {
    strides[dim] = stride;
    stride *= sizes[dim] > 1 ? sizes[dim] : 1;
  };
  if (channel_major) next_outer(1);
  for (int64_t dim = dims - 1; dim > 1; --dim) next_outer(dim);
  if (!channel_major) next_outer(1);
  next_outer(0);
  return allocate(sizes, strides, student);
}

const void* scalar_data(const std::optional<Tensor>& tensor, ScalarType accumulation, const char* name) {
  if (!tensor.has_value()) return nullptr;
  STD_TORCH_CHECK(tensor->numel() == 1 && tensor->scalar_type() == accumulation, name,
                  ": expected a 0-d tensor in the accumulation dtype");
  return tensor->const_data_ptr();
}

void* dense_data(const Tensor& tensor, int64_t count, ScalarType accumulation, const char* name, int level) {
  STD_TORCH_CHECK(tensor.numel() == count && tensor.scalar_type() == accumulation && tensor.is_contiguous(),
                  name, ", level ", level, ": expected ", count,
                  " contiguous elements in the accumulation dtype");
  return const_cast<void*>(tensor.const_data_ptr());
}

}  // namespace frs::bind
