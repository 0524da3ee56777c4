// What the bindings call: element types, the layout of a term, and the CPU entry points. No torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frs/params.h"

namespace frs {

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };

constexpr size_t size_of(DType type) { return type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2; }

// Element type of each list of a call; f32 where the list is empty. f64 comes only with f64, and then the
// accumulation type is double; it is float otherwise. A gradient has the type of its student tensor.
struct DTypes {
  DType student_feat = DType::f32;
  DType teacher_feat = DType::f32;
  DType student_logit = DType::f32;
  DType teacher_logit = DType::f32;

  constexpr bool double_precision() const {
    return student_feat == DType::f64 || teacher_feat == DType::f64 || student_logit == DType::f64 ||
           teacher_logit == DType::f64;
  }
};

// True: vectors run along locations (every stride_l is 1). False: along channels (every stride_c is 1).
// The binding has refused anything else, and sets both strides to 1 where their dimension has size 1.
inline bool location_major(const TensorView& a, const TensorView& b, const TensorView& c) {
  auto ok = [](const TensorView& v) { return v.data == nullptr || v.stride_l == 1; };
  return ok(a) && ok(b) && ok(c);
}
inline bool feat_location_major(const Level& v) {
  return location_major(v.student_feat, v.teacher_feat, v.feat_grad);
}
inline bool logit_location_major(const Level& v) {
  return location_major(v.student_logit, v.teacher_logit, v.logit_grad);
}

// A dense tensor of `size` elements.
struct Span {
  void* data = nullptr;
  int64_t size = 0;
  DType type = DType::f32;
};

namespace cpu {

// Runs body(ctx) once in each of `count` threads; it may run fewer of them, one after another or at once.
struct Threads {
  int count = 1;
  void (*run)(int count, void (*body)(void* ctx), void* ctx) = nullptr;
};

// Level::weight [B, L] <- max over k of sigmoid(teacher_logit [B, K, L]); L contiguous, accumulation type.
void mask(const Level* levels, int num_levels, DType teacher_logit, const Threads& threads);

// losses[3], and the gradients that are present in the table. Level::weight is written first where
// mask_from_logits and it is present; absent, mask and losses are one single pass (then no gradients).
void loss(const LossParams& params, const DTypes& types, const Threads& threads);

// spans[i].data[0..size) *= factor[0] * pending[i]; nothing is touched where the product is 1.
void scale(const Span* spans, int count, const void* factor, const void* pending, const Threads& threads);

}  // namespace cpu
}  // namespace frs
