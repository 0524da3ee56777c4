#include "bind/tensors.h"

namespace frs::bind {
namespace {

// The shape and strides of a tensor. They belong to torch, and each is a call into it.
struct Geometry {
  int64_t dims = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;
};

Geometry geometry_of(const Tensor& tensor, const char* name, int level) {
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(sizes.size() == 3 || sizes.size() == 4, name, ", level ", level,
                  ": expected [B, C, L] or [B, C, H, W]");
  int64_t* strides = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor.get(), &strides));
  return {static_cast<int64_t>(sizes.size()), sizes.data(), strides};
}

Shape shape_of(const Geometry& g) {
  return {g.sizes[0], g.sizes[1], g.dims == 4 ? g.sizes[2] * g.sizes[3] : g.sizes[2]};
}

// The strides of dimensions of size 1 are never used, and become 1.
TensorView view_of(const Geometry& g, const char* name, int level, void* data) {
  const int64_t *size = g.sizes, *stride = g.strides;
  TensorView view{data, stride[0], size[1] > 1 ? stride[1] : 1, 1};
  if (g.dims == 3 && size[2] > 1) view.stride_l = stride[2];
  if (g.dims == 4) {
    if (size[3] > 1) view.stride_l = stride[3];
    if (size[3] <= 1 && size[2] > 1) view.stride_l = stride[2];
    STD_TORCH_CHECK(
        size[2] <= 1 || size[3] <= 1 || size[0] * size[1] == 0 || stride[2] == size[3] * stride[3], name,
        ", level ", level, ": height and width cannot be collapsed into one stride");
  }
  return view;
}

Tensor allocate(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int32_t dtype,
                const Tensor& like) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                  strides.data(), dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

int32_t raw_dtype(const Tensor& tensor) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  return dtype;
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
  const int32_t first = raw_dtype(tensors[0]);
  for (const Tensor& tensor : tensors)
    STD_TORCH_CHECK(raw_dtype(tensor) == first, name, ": levels differ in dtype");
  return dtype_of(tensors[0], name);
}

Input input_of(const Tensor& tensor, const char* name, int level) {
  const Geometry geometry = geometry_of(tensor, name, level);
  void* const data = const_cast<void*>(tensor.const_data_ptr());
  return {shape_of(geometry), view_of(geometry, name, level, data)};
}

TensorView output_view(const Tensor& tensor, const char* name, int level) {
  return view_of(geometry_of(tensor, name, level), name, level, tensor.mutable_data_ptr());
}

void check_layout(const Term& term, const char* name, int level) {
  auto channel_major = [](const TensorView& view) { return !view.present() || view.stride_c == 1; };
  STD_TORCH_CHECK(term.location_major() || (channel_major(term.student) && channel_major(term.teacher)), name,
                  ", level ", level,
                  ": student and teacher must both be location-major or both channel-major");
}

Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                     const Tensor& like) {
  return allocate(sizes, strides, raw_dtype(like), like);
}

Tensor empty(const std::vector<int64_t>& sizes, ScalarType accumulation, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t dim = sizes.size(); dim-- > 1;)
    strides[dim - 1] = strides[dim] * (sizes[dim] > 1 ? sizes[dim] : 1);
  const int32_t dtype =
      accumulation == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  return allocate(sizes, strides, dtype, like);
}

Tensor grad_like(const Tensor& student, const char* name, int level, Allocate allocate_grad) {
  const Geometry g = geometry_of(student, name, level);
  const Shape shape = shape_of(g);
  const std::vector<int64_t> sizes(g.sizes, g.sizes + g.dims);
  const bool is_empty = shape.batch * shape.channels * shape.locations == 0;
  const bool channel_major = !is_empty && view_of(g, name, level, nullptr).stride_l != 1;
  std::vector<int64_t> strides(g.dims);
  int64_t stride = 1;
  auto next_outer = [&](int64_t dim) {
    strides[dim] = stride;
    stride *= sizes[dim] > 1 ? sizes[dim] : 1;
  };
  if (channel_major) next_outer(1);
  for (int64_t dim = g.dims - 1; dim > 1; --dim) next_outer(dim);
  if (!channel_major) next_outer(1);
  next_outer(0);
  return allocate_grad(sizes, strides, student);
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
