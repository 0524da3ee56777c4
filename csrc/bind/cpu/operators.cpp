// The native operators on CPU tensors. Their schemas are in frs_kernels/contract.py.
#include "cpu/operators.h"

#include "bind/arguments.h"
#include "bind/cpu/gradient_memory.h"
#include "bind/cpu/sanitizers.h"
#include "bind/kl.h"
#include "bind/registration.h"

namespace frs::bind {
namespace {

// What a parallel region runs in each thread. ThreadSanitizer does not see that the threads begin after the
// region was entered and are done before it is left, as torch's OpenMP is not built with it.
struct Region {
  void (*body)(void* context);
  void* context;

  void operator()(int64_t, int64_t) const {
    sanitizers::acquire(this);
    body(context);
    sanitizers::release(this);
  }
};

// Torch's own threads: one parallel region of at::parallel_for, with one index per thread.
cpu::Threads threads() {
  auto run = [](int count, void (*body)(void*), void* context) {
    if (count == 1) return body(context);
    const Region region{body, context};
    sanitizers::release(&region);
    torch::stable::parallel_for(0, count, 1, region);
    sanitizers::acquire(&region);
  };
  return {static_cast<int>(torch::stable::get_num_threads()), run};
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
  return call.result();
}

KLResult kl(const KLArguments& arguments) {
  if (arguments.grad) begin_gradients();
  const KLCall call = prepare_kl(arguments, empty_gradient);
  cpu::kl(call.params, call.types, threads());
  return call.result();
}

void scale_(const Tensors& grads, const Tensor& grad_output, const Tensor& pending) {
  const ScaleCall call = prepare_scale(grads, grad_output, pending);
  cpu::scale(call.grads.data(), static_cast<int>(call.grads.size()), call.images, call.grad_output,
             call.pending, threads());
}

}  // namespace
}  // namespace frs::bind

// Called by frs_kernels/library.py, which has defined the operators of this namespace.
extern "C" __attribute__((visibility("default"))) void frs_register(const char* name_space,
                                                                    const char* dispatch_key) {
  using namespace frs::bind;
  register_operators<&mask, &loss_operator<loss>, &kl_operator<kl>, &scale_>(name_space, dispatch_key);
}
