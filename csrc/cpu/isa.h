// The interface of the kernels in csrc/cpu/isa/, which are compiled once per instruction set, and the table
// that one set is picked from at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frs/contract.h"

namespace frs::cpu {

// A block of one term of one image: channels x locations. Pointers are at the block's first element. Element
// (c, l) is at c * stride + l in a location-major block, and at l * stride + c in a channel-major one.
struct Block {
  int64_t channels = 0;
  int64_t locations = 0;
  bool channel_major = false;
  DType student_type = DType::f32, teacher_type = DType::f32;
  const void* student = nullptr;  // x or s
  const void* teacher = nullptr;  // y or T
  void* grad = nullptr;           // dx or ds, of student_type; nullptr: no gradient
  int64_t student_stride = 0, teacher_stride = 0, grad_stride = 0;
  const void* mask = nullptr;            // S [locations], accumulation dtype
  const void* channel_weight = nullptr;  // [channels], accumulation dtype; nullptr: 1. Imitation term only
  bool non_temporal = false;             // the gradient is written with non-temporal stores, see blocks.h
  double factor = 1.0;                   // scale / Z_l, which multiplies losses and gradients
  double beta = 0.0;                     // of the quality focal form; head term only
};

// The mask and single passes have one sum per run of kRun locations, so that sums do not depend on the tiles.
// A location-major tile of the single pass has at most kMaxMaskTile locations.
constexpr int64_t kRun = 256;
constexpr int64_t kMaxMaskTile = 8192;

// The loss pass has one sum per segment of kSegment locations of a location-major block, which has at most
// kMaxLossTile locations and kMaxLogFactors channels. A channel-major block has one sum.
constexpr int64_t kSegment = 1024, kMaxLossTile = 20 * kSegment;

constexpr int64_t ceil_div(int64_t total, int64_t size) { return (total + size - 1) / size; }
constexpr int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

struct Sums {
  double mask = 0.0, imitation = 0.0, head = 0.0;  // of S, S |x - y|^2 and S BCE
};

// How the distributions of a KLBlock lie in memory, where x is the first element and the stride is in
// elements.
enum class KLForm {
  columns,     // x[bin * stride + distribution]: the lanes of a vector are distributions
  rows,        // x[distribution * stride + bin]: the lanes are bins
  transposed,  // as rows, but with so few bins that they are transposed to columns first
};

// Softmax distributions of student and teacher: `distributions` of them in each of `groups`. A group's bins
// follow those of the group before it, and all groups have the same weights.
struct KLBlock {
  KLForm form = KLForm::columns;
  int64_t groups = 1, distributions = 0, bins = 0;
  int64_t width = 0;      // of a tile of whole distributions
  int64_t tile_bins = 0;  // of a tile of some bins of all distributions of the block
  DType student_type = DType::f32, teacher_type = DType::f32;
  const void* student = nullptr;
  const void* teacher = nullptr;
  void* grad = nullptr;  // of student_type; nullptr: no gradient
  int64_t student_stride = 0, teacher_stride = 0, grad_stride = 0;
  const void* weight = nullptr;  // w [distributions], accumulation dtype; nullptr: 1
  double temperature = 1.0;
  double factor = 1.0;        // tau scale / Z_l, which multiplies gradients
  bool non_temporal = false;  // the gradient is written with non-temporal stores
};

// A tile of the KL kernels has student and teacher of `width` distributions, at most kMaxKLWidth. As columns,
// the width counts as rounded up to kKLLanes, and as rows the bins do.
constexpr int64_t kKLTileBytes = 336 << 10, kMaxKLWidth = 512, kKLLanes = 16;
constexpr int64_t kl_tile_pairs(bool double_precision) { return kKLTileBytes / (double_precision ? 16 : 8); }

// The numbers that sum up some bins of a distribution. Those of W distributions are an array [kKLStatistics,
// W] in the accumulation dtype.
constexpr int64_t kKLStatistics = 5;

struct Kernels {
  // S[l] = max_c sigmoid(T[c, l]), in the accumulation dtype; sums[i] = the sum of S over run i.
  void (*mask)(const Block& block, void* S, double* sums);
  // sums[i] = factor times the sum of S[l] BCE(s[c, l], sigmoid(T[c, l])) over segment i; writes the gradient
  // unless `grad` is null.
  void (*head)(const Block& block, double* sums);
  // sums[i] = factor times the sum of S[l] channel_weight[c] (x[c, l] - y[c, l])^2 over segment i; writes the
  // gradient unless `grad` is null.
  void (*imitation)(const Block& block, double* sums);
  // The single pass: mask and losses without gradients. `logits` and `feats` are the same locations with all
  // channels. Without logits.student there is no head term, without feats.student no imitation term. sums[i]
  // is of run i.
  void (*single)(const Block& logits, const Block& feats, Sums* sums);
  // The sum of w KL over whole distributions that fit into a tile; writes the gradient unless `grad` is null.
  double (*kl)(const KLBlock& block);
  // The same for larger distributions, in three steps. First the statistics of some bins.
  void (*kl_statistics)(const KLBlock& block, void* statistics);
  // Then the sum of w KL, from the statistics of all `parts` of the bins, one after another. What the last
  // step needs replaces the first of them.
  double (*kl_merge)(const KLBlock& block, void* statistics, int64_t parts);
  // The gradient in some bins.
  void (*kl_gradient)(const KLBlock& block, const void* merged);
  // data[i] *= factor.
  void (*scale)(void* data, int64_t size, DType type, double factor);
};

#define FRS_DECLARE_KERNELS(isa)                   \
  namespace isa {                                  \
  void mask(const Block&, void*, double*);         \
  void head(const Block&, double*);                \
  void imitation(const Block&, double*);           \
  void single(const Block&, const Block&, Sums*);  \
  double kl(const KLBlock&);                       \
  void kl_statistics(const KLBlock&, void*);       \
  double kl_merge(const KLBlock&, void*, int64_t); \
  void kl_gradient(const KLBlock&, const void*);   \
  void scale(void*, int64_t, DType, double);       \
  }
FRS_DECLARE_KERNELS(baseline)
FRS_DECLARE_KERNELS(x86_64_v3)
FRS_DECLARE_KERNELS(x86_64_v4)

// This thread's scratch memory for what a kernel keeps per location, aligned to 64 bytes. It is too large for
// a small stack. It is kept until the thread ends, so that it stays in the cache.
constexpr size_t kScratchBytes = 384 << 10;
void* scratch();

const Kernels& kernels();  // the best set that this machine runs, or the one that ATEN_CPU_CAPABILITY names

}  // namespace frs::cpu
