// The operators on the CPU, without torch: what the binding calls.
#pragma once

#include "frs/contract.h"

namespace frs::cpu {

// A pool of `count` threads. run(count, body, context) calls body(context) in up to `count` threads, at least
// once, at the same time or one after another.
struct Threads {
  int count = 1;
  void (*run)(int count, void (*body)(void* context), void* context) = nullptr;
};

// Level::mask [B, L] = max over k of sigmoid(T [B, K, L]), where T is Level::head.teacher.
void mask(const Level* levels, int num_levels, DType teacher, const Threads& threads);

// Losses, of all images together or of each; those of every level; pending factors; and the gradients that
// are present in the levels.
void loss(const LossParams& params, const DTypes& types, const Threads& threads);

// The loss, of all images together or of each; pending factors; and the gradients that are present.
void kl(const KLParams& params, const TermTypes& types, const Threads& threads);

// Multiplies image b of grads[i] by grad_output[b] * pending[i], or the whole gradient if there is one factor
// for all images (images == 1). What the product 1 would multiply is neither read nor written.
void scale(const DenseTensor* grads, int count, int64_t images, const void* grad_output, const void* pending,
           const Threads& threads);

}  // namespace frs::cpu
