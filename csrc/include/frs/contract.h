// The contract between the bindings and the kernels, for the CPU and CUDA alike: what a call of the loss
// consists of, the codes of its enumerations, its limits, and the formulas that every backend has to agree
// on. Plain structs without torch. frs_kernels/contract.py says the same in Python; tests/test_contract.py
// compares the two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frs/host_device.h"

namespace frs {

// FPN levels in one call. A feature pyramid has three to eight; CUDA kernels get all of them by value.
constexpr int kMaxLevels = 16;

// The logarithms of up to this many factors are taken as one logarithm of their product. Each factor is at
// most 2, so the product stays a finite float.
constexpr int kMaxLogFactors = 64;

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };

constexpr size_t size_of(DType type) { return type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2; }

// Whether gradients of this type are stored without their factor scale / Z_l. That factor is then pending:
// the backward applies it together with the incoming gradient. In float16 a gradient of 1e-7 would underflow
// before a gradient scaler could multiply it.
constexpr bool pending_factor(DType gradient) { return gradient == DType::f16; }

// A tensor [batch, channels, locations], where locations = H * W. Strides are in elements. There are two
// layouts:
//   location-major (NCHW):          stride_l == 1, stride_c and stride_b arbitrary
//   channel-major  (channels_last): stride_c == 1, stride_l and stride_b arbitrary
struct TensorView {
  void* data = nullptr;  // nullptr: the tensor is absent
  int64_t stride_b = 0;
  int64_t stride_c = 0;
  int64_t stride_l = 0;

  bool present() const { return data != nullptr; }
  bool location_major() const { return !present() || stride_l == 1; }
};

// One term of the loss on one level. Its tensors share one layout; their strides may differ.
struct Term {
  TensorView student;                    // x or s [B, C, L]
  TensorView teacher;                    // y or T [B, C, L]
  TensorView grad;                       // dx or ds [B, C, L], of the student's type; absent: not wanted
  int64_t channels = 0;                  // D of features, K of logits
  const void* channel_weight = nullptr;  // c [B, D], contiguous, accumulation dtype; nullptr: 1

  // The binding rejects mixed layouts, and sets the strides of dimensions of size 1 to 1.
  bool location_major() const {
    return student.location_major() && teacher.location_major() && grad.location_major();
  }
};

// One FPN level.
struct Level {
  int64_t batch = 0;      // B
  int64_t locations = 0;  // L = H * W
  void* mask = nullptr;   // S [B, L], contiguous, accumulation dtype; see Mode
  Term imitation;         // absent: no tensors and 0 channels
  Term head;              // absent likewise, but Mode::mask_first and Mode::single_pass read its teacher
};

// Where the mask S comes from, and in how many passes over the logits.
enum class Mode : int {
  mask_given = 0,   // Level::mask is an input
  mask_first = 1,   // a mask pass writes S = max_k sigmoid(T_k) to Level::mask before the loss pass
  single_pass = 2,  // one pass takes S and the losses. There are no gradients, and Level::mask is nullptr.
};

// What the sum over a level is divided by: the normalizer Z_l. See normalizer_of.
enum class Normalizer : int {
  mask = 0,
  mask_channels = 1,
  batch = 2,
  numel = 3,
  mask_all_levels = 4,
  value = 5
};

constexpr double kNormalizerEpsilon = 1e-9;

FRS_HOST_DEVICE constexpr bool needs_mask_sum(Normalizer normalizer) {
  return normalizer == Normalizer::mask || normalizer == Normalizer::mask_channels ||
         normalizer == Normalizer::mask_all_levels;
}

// Whether all levels have one Z, which is known only after the masks of all of them.
FRS_HOST_DEVICE constexpr bool spans_levels(Normalizer normalizer) {
  return normalizer == Normalizer::mask_all_levels;
}

// Z_l of one term. mask_sum() returns the sum of S over the level, or over all levels where Z_l spans them;
// value() the caller's own Z. Each is called only where the normalizer needs it. Where Z_l is 0, loss and
// gradients of the term are 0 on that level.
template <class Acc, class Int, class MaskSum, class Value>
FRS_HOST_DEVICE Acc normalizer_of(Normalizer normalizer, Int batch, Int channels, Int locations,
                                  const MaskSum& mask_sum, const Value& value) {
  switch (normalizer) {
    case Normalizer::batch:  // FGD
      return static_cast<Acc>(batch);
    case Normalizer::numel:
      return static_cast<Acc>(static_cast<double>(batch) * channels * locations);
    case Normalizer::value:
      return value();
    default:
      break;
  }
  const Acc sum = mask_sum();
  return normalizer == Normalizer::mask_channels  // Ultralytics, else official FRS
             ? static_cast<Acc>(channels) * sum + static_cast<Acc>(kNormalizerEpsilon)
             : sum;
}

// Element types of one term, the same on all levels; f32 where a tensor is absent. A gradient has its
// student's.
struct TermTypes {
  DType student = DType::f32;
  DType teacher = DType::f32;
};

// The accumulation dtype is float64 if any input is float64 (then all are), else float32.
struct DTypes {
  TermTypes imitation, head;

  constexpr bool double_precision() const {
    return imitation.student == DType::f64 || imitation.teacher == DType::f64 || head.student == DType::f64 ||
           head.teacher == DType::f64;
  }
};

// A number that the host has, times one that only the device has.
struct Scalar {
  double value = 1.0;
  const void* device = nullptr;  // one element in the accumulation dtype; nullptr: 1
};

// A call of the operator `loss`.
struct LossParams {
  int num_levels = 0;
  Level levels[kMaxLevels];
  Mode mode = Mode::mask_given;
  Normalizer normalizer = Normalizer::mask;
  Scalar normalizer_value;  // Z_l if normalizer == Normalizer::value
  Scalar feat_scale;
  Scalar head_scale;
  double beta = 0.0;       // exponent of the quality-focal head term; 0: plain cross-entropy
  bool per_image = false;  // whether losses has one value per image; all levels then have one batch size
  // [3], or [3, B] for per_image; out, accumulation dtype: feature, head, feature + head; scales included
  void* losses = nullptr;
  // [2, num_levels] out, accumulation dtype: the imitation and the head term of each level, scales included
  void* level_losses = nullptr;
  // [2, num_levels] out, accumulation dtype: the pending factors of the imitation term (row 0) and of the
  // head term (row 1). Each is 1, except scale / Z_l (0 where Z_l is 0) for gradients with a pending factor.
  void* pending = nullptr;
};

// One FPN level of the operator `kl`.
struct KLLevel {
  int64_t batch = 0;             // B
  int64_t locations = 0;         // L = H * W
  Term logits;                   // s, T and ds [B, C, L]
  const void* weight = nullptr;  // w [B, L], or [B, C] over locations, contiguous, accumulation dtype; or 1
};

// A call of the operator `kl`.
struct KLParams {
  int num_levels = 0;
  KLLevel levels[kMaxLevels];
  bool over_locations = false;  // a softmax runs over the locations of a channel, else over channels
  int64_t groups = 1;           // softmaxes over the channels of a location, each over C / groups of them
  double temperature = 1.0;     // tau
  Normalizer normalizer = Normalizer::mask;  // Z_l, with w in place of S
  Scalar normalizer_value;
  Scalar scale;
  bool per_image = false;
  void* loss = nullptr;     // [], or [B] for per_image; out, accumulation dtype, scale included
  void* pending = nullptr;  // [num_levels] out, accumulation dtype: the pending factors
};

// A gradient as the operator `scale_` takes it: dense, images one after another, so that its layout does not
// matter.
struct DenseTensor {
  void* data = nullptr;
  int64_t size = 0;  // elements
  DType type = DType::f32;
};

}  // namespace frs
