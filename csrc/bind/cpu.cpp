// The native operators on CPU tensors. The schemas are defined in frs_kernels/contract.py.
#include "cpu_memory.h"
#include "levels.h"

namespace frs::bind {
namespace {

// at::parallel_for with one index a thread: a single parallel region, of torch's own threads and number.
cpu::Threads threads() {
  return {static_cast<int>(torch::stable::get_num_threads()), [](int count, void (*body)(void*), void* ctx) {
            if (count == 1) return body(ctx);
            torch::stable::parallel_for(0, count, 1, [&](int64_t, int64_t) { body(ctx); });
          }};
}

Tensors mask(const Tensors& teacher_logits) {
  const MaskCall call = prepare_mask(teacher_logits);
  cpu::mask(call.levels.data(), call.num_levels, call.type, threads());
  return call.masks;
}

LossResult loss(const LossArguments& arguments) {
  if (arguments.feat_grad || arguments.head_grad) begin_gradients();
  const LossCall call = prepare_loss(arguments, empty_gradient);
  cpu::loss(call.params, call.types, threads());
  return {*call.losses, *call.pending, call.feat_grads, call.logit_grads};
}

void scale_(const Tensors& grads, const Tensor& factor, const Tensor& pending) {
  const ScaleCall call = prepare_scale(grads, factor, pending);
  cpu::scale(call.spans.data(), static_cast<int>(call.spans.size()), call.factor, call.pending, threads());
}

}  // namespace
}  // namespace frs::bind

STABLE_TORCH_LIBRARY_IMPL(frs_kernels, CPU, m) {
  m.impl("mask", TORCH_BOX(&frs::bind::mask));
  m.impl("loss", TORCH_BOX(&frs::bind::loss_operator<frs::bind::loss>));
  m.impl("scale_", TORCH_BOX(&frs::bind::scale_));
}
