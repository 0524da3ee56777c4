// The native operators on CPU tensors. The schemas are defined in frs_kernels/library.py.
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

std::tuple<Tensor, Tensor, Tensors, Tensors> loss(
    const Tensors& student_feats, const Tensors& teacher_feats, const Tensors& student_logits,
    const Tensors& teacher_logits, const Tensors& weights, const Tensors& channel_weights, int64_t normalizer,
    double divisor, const std::optional<Tensor>& divisor_tensor, double feat_scale,
    const std::optional<Tensor>& feat_scale_tensor, double head_scale,
    const std::optional<Tensor>& head_scale_tensor, double beta, bool feat_grad, bool head_grad) {
  if (feat_grad || head_grad) begin_gradients();
  const LossCall call =
      prepare_loss({student_feats, teacher_feats, student_logits, teacher_logits, weights, channel_weights,
                    normalizer, divisor, divisor_tensor, feat_scale, feat_scale_tensor, head_scale,
                    head_scale_tensor, beta, feat_grad, head_grad},
                   empty_gradient);
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
  m.impl("loss", TORCH_BOX(&frs::bind::loss));
  m.impl("scale_", TORCH_BOX(&frs::bind::scale_));
}
