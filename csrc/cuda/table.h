// What the launchers hand to the kernels, by value: the levels of frs/contract.h seen as matrices, cut into
// pieces.
#pragma once

#include <cstdint>

#include "frs/contract.h"
#include "frs/tiles.h"

namespace frs::cuda {

constexpr int kMaxTerms = 2 * kMaxLevels;

struct Side {
  void* data = nullptr;
  int64_t row_stride = 0, batch_stride = 0;  // in elements
};

// One term of one level: matrices [batch, rows, columns], see tiles.h.
struct Term {
  Side student, teacher, gradient;        // absent: data is nullptr
  const void* location_weight = nullptr;  // [batch, locations] in the accumulation type
  const void* channel_weight = nullptr;   // [batch, channels] in the accumulation type, or nullptr
};

// Work of the score kernel: S of every location, and its sum over every tile of locations.
struct ScoreTable {
  Side teacher[kMaxLevels];
  void* score[kMaxLevels];  // [batch, locations], out
  tiles::Cut cuts[kMaxLevels];
  uint32_t first_tile[kMaxLevels];
  int num_levels = 0;
  void* tile_sums = nullptr;    // [tiles], or nullptr: not wanted
  unsigned* counter = nullptr;  // set to 0 for the next kernel, or nullptr
};

// Work of the weight-sum kernel: the sum of every tile of kWeightTile given weights.
constexpr uint32_t kWeightTile = 16 * tiles::kThreads;
struct WeightTable {
  const void* weight[kMaxLevels];  // [size]
  int64_t size[kMaxLevels];
  uint32_t first_tile[kMaxLevels];
  int num_levels = 0;
  void* tile_sums = nullptr;
  unsigned* counter = nullptr;
};

// Work of the loss kernel and of the single-pass kernel. Terms: imitation of every level, then head of every
// level.
struct LossTable {
  Term terms[kMaxTerms];
  tiles::Cut cuts[kMaxTerms];
  uint32_t first_block[kMaxTerms + 1];  // loss kernel: the blocks of each term
  uint32_t first_tile[kMaxLevels + 1];  // the tiles of each level in tile_sums
  int num_levels = 0;
  Normalizer normalizer = Normalizer::mask;
  bool deferred[2] = {};  // imitation, head: gradients are stored without scale / Z (float16)
  DType student_type[2], teacher_type[2];
  Scalar divisor, scale[2];
  double beta = 0;
  void* losses = nullptr;     // [3]
  void* pending = nullptr;    // [2, num_levels]
  void* tile_sums = nullptr;  // [tiles]: sums of S
  void* partials = nullptr;   // [blocks], single pass: [2, tiles]: sums of the imitation and the head term
  unsigned* counter = nullptr;
};
static_assert(sizeof(LossTable) <= 4096, "fits the kernel parameters of every CUDA version");

}  // namespace frs::cuda
