// What a kernel is told, CPU and CUDA alike: plain structs, no torch. All strides are in elements.
#pragma once

#include <cstdint>

namespace frs {

// Levels of one call. A feature pyramid has three to eight; the table is passed to GPU kernels by value.
constexpr int kMaxLevels = 16;

// One logical tensor [batch, channels, locations] with locations = H * W. Two layouts are supported:
//   location-major (NCHW):          stride_l == 1, stride_c and stride_b arbitrary
//   channel-major  (channels_last): stride_c == 1, stride_l and stride_b arbitrary
// Every tensor of one term (student, teacher, gradient) has the same layout; the strides may differ.
struct TensorView {
  void* data = nullptr;  // nullptr: the tensor is absent
  int64_t stride_b = 0;
  int64_t stride_c = 0;
  int64_t stride_l = 0;
};

// One FPN level. `S` below is the weight of a location: given, or the FRS mask of the teacher's logits.
struct Level {
  int64_t batch = 0;           // B
  int64_t locations = 0;       // H * W
  int64_t feat_channels = 0;   // D, 0 without an imitation term
  int64_t logit_channels = 0;  // K, 0 without logits
  TensorView student_feat;     // x   [B, D, L]
  TensorView teacher_feat;     // y   [B, D, L]
  TensorView feat_grad;        // dx  [B, D, L], absent where no gradient is wanted
  TensorView student_logit;    // s   [B, K, L]
  TensorView teacher_logit;    // T   [B, K, L]
  TensorView logit_grad;       // ds  [B, K, L], absent where no gradient is wanted
  void* weight = nullptr;      // S   [B, L] contiguous, in the accumulation type: input, or mask to write
  const void* channel_weight = nullptr;  // [B, D] contiguous, in the accumulation type, or nullptr
};

// Z_l, what the sum over a level is divided by. The order is that of frs_kernels.levels.NORMALIZERS.
enum class Normalizer : int {
  weight = 0,           // N_l = sum of S                  (official FRS)
  weight_channels = 1,  // channels * N_l + 1e-9           (Ultralytics)
  batch = 2,            // B                               (FGD)
  numel = 3,            // B * channels * locations
  value = 4,            // a number or a 0-d tensor
};

// A number known on the host times one that is read on the device (nullptr: 1).
struct Scalar {
  double value = 1.0;
  const void* device = nullptr;  // one element in the accumulation type
};

// Everything the loss phase needs. losses[3] = {feature, head, feature + head}, scales included.
struct LossParams {
  int num_levels = 0;
  Level levels[kMaxLevels];
  Normalizer normalizer = Normalizer::weight;
  Scalar divisor;  // Z_l where normalizer == value
  Scalar feat_scale;
  Scalar head_scale;
  double beta = 0.0;  // quality-focal exponent of the head term, 0: plain cross-entropy
  bool mask_from_logits =
      false;               // S = max_k sigmoid(T_k), written to `weight` first; otherwise `weight` is given
  void* losses = nullptr;  // [3] in the accumulation type
  // [2, num_levels], row 0 imitation, row 1 head: what the stored gradients still lack. 1, except where
  // gradients are float16: these are stored without scale / Z_l, which stands here (0 where Z_l is 0, the
  // gradient too).
  void* pending = nullptr;
};

}  // namespace frs
