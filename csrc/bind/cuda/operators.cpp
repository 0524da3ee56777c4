// The native operators on CUDA tensors. They run on the tensors' device, on its current stream, and all
// memory comes from torch's allocator. Their schemas are in frs_kernels/contract.py.
#include "cuda/operators.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "bind/arguments.h"
#include "bind/registration.h"

namespace frs::bind {
namespace {

// The tensors' device, which is current during the object's lifetime.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& any)
      : index_(any.get_device_index()), on_cuda_(any.is_cuda()), guard_(index_) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

  void check(const Tensors& tensors, const char* name) const {
    for (const Tensor& t : tensors) check(t, name);
  }
  void check(const std::optional<Tensor>& t, const char* name) const {
    if (t.has_value()) check(*t, name);
  }
  void check(const Tensor& t, const char* name) const {
    STD_TORCH_CHECK(t.get_device_index() == index_ && t.is_cuda() == on_cuda_, name,
                    ": all tensors of a call must be on one device");
  }

 private:
  int32_t index_;
  bool on_cuda_;
  torch::stable::accelerator::DeviceGuard guard_;
};

void check_sizes(const Level* levels, int count) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  for (int l = 0; l < count; ++l) {
    const Level& level = levels[l];
    STD_TORCH_CHECK(level.batch < kLimit && level.locations < kLimit && level.imitation.channels < kLimit &&
                        level.head.channels < kLimit,
                    "level ", l, ": batch, channels and locations must each be below 2^31");
  }
}

Tensors mask(const Tensors& teacher_logits) {
  if (teacher_logits.empty()) return {};
  const OnDevice device(teacher_logits[0]);
  device.check(teacher_logits, "teacher_logits");
  const MaskCall call = prepare_mask(teacher_logits);
  check_sizes(call.levels.data(), call.num_levels);
  STD_CUDA_CHECK(cuda::mask(call.levels.data(), call.num_levels, call.type, device.stream()));
  return call.masks;
}

LossResult loss(const LossArguments& a) {
  const Tensor& any = any_students(a)[0];
  const OnDevice device(any);
  device.check(a.student_feats, "student_feats");
  device.check(a.teacher_feats, "teacher_feats");
  device.check(a.student_logits, "student_logits");
  device.check(a.teacher_logits, "teacher_logits");
  device.check(a.masks, "masks");
  device.check(a.channel_weights, "channel_weights");
  device.check(a.normalizer_tensor, "normalizer_tensor");
  device.check(a.feat_scale_tensor, "feat_scale_tensor");
  device.check(a.head_scale_tensor, "head_scale_tensor");

  const LossCall call = prepare_loss(a);
  check_sizes(call.params.levels, call.params.num_levels);
  cuda::LossPlan plan = cuda::plan_loss(call.params, call.types);
  const Tensor workspace =
      torch::stable::new_empty(any, {static_cast<int64_t>(plan.workspace)}, ScalarType::Byte);
  STD_CUDA_CHECK(cuda::loss(plan, workspace.mutable_data_ptr(), device.stream()));
  return call.result();
}

void scale_(const Tensors& grads, const Tensor& grad_output, const Tensor& pending) {
  if (grads.empty()) return;
  const OnDevice device(grads[0]);
  device.check(grads, "grads");
  device.check(grad_output, "grad_output");
  device.check(pending, "pending");
  const ScaleCall call = prepare_scale(grads, grad_output, pending);
  STD_CUDA_CHECK(cuda::scale(call.grads.data(), static_cast<int>(call.grads.size()), call.images,
                             call.grad_output, call.pending, device.stream()));
}

}  // namespace
}  // namespace frs::bind

// Called by frs_kernels/library.py, which has defined the operators of this namespace.
extern "C" __attribute__((visibility("default"))) void frs_register(const char* name_space,
                                                                    const char* dispatch_key) {
  using namespace frs::bind;
  register_operators<&mask, &loss_operator<loss>, nullptr, &scale_>(name_space, dispatch_key);
}
