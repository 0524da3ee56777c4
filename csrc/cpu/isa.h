// The inner loops, compiled once per instruction set (csrc/cpu/isa/), and the table by which one is picked.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frs/contract.h"

namespace frs::cpu {

// A block of one image: channels x locations of its tensors; pointers are at the block's first element.
// Element (c, l) is at c * stride + l in a location-major block, at l * stride + c in a channel-major one.
struct Block {
  int64_t channels = 0;
  int64_t locations = 0;
  bool channel_major = false;
  DType student_type = DType::f32, teacher_type = DType::f32;
  const void* student = nullptr;  // x or s
  const void* teacher = nullptr;  // y or T
  void* grad = nullptr;           // dx or ds, of student_type; nullptr: none wanted
  int64_t student_stride = 0, teacher_stride = 0, grad_stride = 0;
  const void* mask = nullptr;            // S   [locations], accumulation type
  const void* channel_weight = nullptr;  // [channels], accumulation type; nullptr: 1 (imitation only)
  bool non_temporal = false;             // dx or ds is written with non-temporal stores, see schedule.h
  double factor = 1.0;                   // scale / Z_l, which losses and gradients are multiplied by
  double beta = 0.0;                     // head only
};

// Sums over locations are taken over runs of kRun, so that they do not depend on how blocks are cut.
constexpr int64_t kRun = 256;
constexpr int64_t kMaxMaskTile = 8192;

// Losses with gradients have a sum for each segment of kSegment locations of a location-major block, which
// has at most kMaxLossTile of them and kMaxLogFactors channels, and one sum for a channel-major block.
constexpr int64_t kSegment = 1024, kMaxLossTile = 20 * kSegment;

constexpr int64_t ceil_div(int64_t total, int64_t size) { return (total + size - 1) / size; }
constexpr int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

struct Sums {
  double mask = 0.0, imitation = 0.0, head = 0.0;  // of S, S |x - y|^2 and S BCE
};

struct Kernels {
  // S[l] = max_c sigmoid(T[c, l]) (accumulation type), sums[l / kRun] = sum of S over kRun locations.
  void (*mask)(const Block& block, void* S, double* sums);
  // sums[i] = factor times the sum of S[l] BCE(s[c, l], sigmoid(T[c, l])) over segment i, and the gradient
  // where it is wanted.
  void (*head)(const Block& block, double* sums);
  // sums[i] = factor times the sum of S[l] channel_weight[c] (x[c, l] - y[c, l])^2, and the gradient where it
  // is wanted.
  void (*imitation)(const Block& block, double* sums);
  // Mask and losses in one pass, no gradient: `logits` and `feats` are the same locations with all channels;
  // logits.student nullptr: no head term; feats.student nullptr: no imitation term. One result a kRun
  // locations; a location-major block has at most kMaxMaskTile of them.
  void (*single)(const Block& logits, const Block& feats, Sums* sums);
  // data[i] *= factor.
  void (*scale)(void* data, int64_t size, DType type, double factor);
};

#define FRS_DECLARE_KERNELS(isa)                  \
  namespace isa {                                 \
  void mask(const Block&, void*, double*);        \
  void head(const Block&, double*);               \
  void imitation(const Block&, double*);          \
  void single(const Block&, const Block&, Sums*); \
  void scale(void*, int64_t, DType, double);      \
  }
FRS_DECLARE_KERNELS(baseline)
FRS_DECLARE_KERNELS(x86_64_v3)
FRS_DECLARE_KERNELS(x86_64_v4)

// This thread's memory for what a kernel keeps of its block, aligned to 64 bytes: too much for the stack of a
// thread that is given a small one. It stays until the thread ends, so that it is as warm as a stack.
constexpr size_t kScratchBytes = 384 << 10;
void* scratch();

const Kernels& kernels();  // the best that this machine runs, or what ATEN_CPU_CAPABILITY asks for

}  // namespace frs::cpu
