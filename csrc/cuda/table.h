// The kernels' arguments, passed by value: the levels of frs/contract.h as matrices (see frs/tiles.h), and
// how they are divided among warps and blocks.
#pragma once

#include <cstdint>

#include "frs/contract.h"
#include "frs/tiles.h"

namespace frs::cuda {

// The matrices [rows, columns] of one tensor of a level, one per image of the batch. Strides are in elements;
// that of columns is 1.
struct Matrices {
  void* data = nullptr;  // nullptr: the tensor is absent
  int64_t row_stride = 0, batch_stride = 0;
};

// One term of one level.
struct TermMatrices {
  Matrices student, teacher, grad;
  const void* mask = nullptr;            // [batch, locations], accumulation dtype
  const void* channel_weight = nullptr;  // [batch, channels], accumulation dtype; nullptr: 1
};

// Arguments of the mask kernel, which writes S of every location and its sum over every tile of locations.
struct MaskTable {
  Matrices teacher[kMaxLevels];
  void* mask[kMaxLevels];  // [batch, locations] out, accumulation dtype
  tiles::Tiling tilings[kMaxLevels];
  uint32_t first_tile[kMaxLevels];
  int num_levels = 0;
  void* tile_sums = nullptr;    // [tiles] out; nullptr: not wanted
  unsigned* counter = nullptr;  // the block counter of the loss kernel, to be set to 0; nullptr: none
};

// Arguments of the mask-sum kernel, which sums up given masks, in tiles of kMaskSumTile locations.
constexpr uint32_t kMaskSumTile = 16 * tiles::kThreads;
struct MaskSumTable {
  const void* mask[kMaxLevels];  // [size], accumulation dtype
  int64_t size[kMaxLevels];      // batch * locations
  uint32_t first_tile[kMaxLevels];
  int num_levels = 0;
  void* tile_sums = nullptr;    // [tiles] out
  unsigned* counter = nullptr;  // the block counter of the loss kernel, to be set to 0
};

// Arguments of the loss kernel and of the single-pass kernel. Arrays of kMaxTerms hold the imitation term of
// every level, then the head term of every level: entry `term * num_levels + level`. Arrays of 2 hold one
// value per term.
constexpr int kImitation = 0, kHead = 1;
constexpr int kMaxTerms = 2 * kMaxLevels;
struct TileRange {
  uint32_t first = 0, count = 0;
};
struct LossTable {
  TermMatrices terms[kMaxTerms];
  tiles::Tiling tilings[kMaxTerms];
  uint32_t
      first_block[kMaxTerms + 1];  // the partial sums of each entry; loss kernel: the blocks too, one each
  uint32_t first_tile[kMaxLevels + 1];  // the tiles of each level in tile_sums
  TileRange mask_tiles[kMaxLevels];     // those whose S are in Z_l: of the level, or of all levels
  int num_levels = 0;
  Normalizer normalizer = Normalizer::mask;
  bool pending_factor[2] = {};  // the stored gradients do not contain the factor scale / Z_l (float16)
  DType student_type[2], teacher_type[2];
  Scalar normalizer_value, scale[2];
  double beta = 0;
  bool per_image = false;
  uint32_t images = 0;            // per_image: batch of every level
  void* losses = nullptr;         // [3], or [3, images] for per_image; out: feature, head, feature + head
  void* level_losses = nullptr;   // [2, num_levels] out
  void* pending = nullptr;        // [2, num_levels] out
  void* tile_sums = nullptr;      // [tiles]: sums of S; input of the loss kernel, scratch of the single pass
  void* partials = nullptr;       // scratch, sums of S * loss: loss kernel [blocks], single pass [2, tiles]
  void* warp_partials = nullptr;  // scratch of the loss kernel for per_image, likewise: [blocks, kWarps]
  unsigned* counter = nullptr;    // scratch: how many blocks are done; 0 before the launch
};
static_assert(sizeof(LossTable) <= 4096, "a kernel takes at most 4096 bytes of arguments before CUDA 12.1");

}  // namespace frs::cuda
