// How the matrices of a term are divided into tiles for the warps and blocks of a GPU. Plain arithmetic,
// shared by the host code that plans a launch, the kernels, and (through the module _host) the tests.
//
// For every image of the batch, a tensor of one level is a matrix whose columns are adjacent in memory:
//   location-major (NCHW):          [rows = channels, columns = locations]
//   channel-major  (channels_last): [rows = locations, columns = channels]
// A lane processes a row in vectors of `width` elements, which are 16 bytes where a kernel has one dtype.
#pragma once

#include <cstdint>

#include "frs/host_device.h"

namespace frs::tiles {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kWarps = 8;  // of a block
constexpr uint32_t kThreads = kWarp * kWarps;

FRS_HOST_DEVICE constexpr uint32_t ceil_div(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

// How many of the rows row, row + step, ... are below row_end.
FRS_HOST_DEVICE uint32_t rows_between(uint32_t row, uint32_t row_end, uint32_t step) {
  return row < row_end ? (row_end - row + step - 1) / step : 0;
}

// The columns of one lane's vector: those of first + j * kStep, j < width, that are below `count`.
//   kStep == 1      Adjacent columns, accessed 16 bytes at a time, aligned. All of them exist or none.
//   kStep == kWarp  Single elements, where rows are not aligned to 16 bytes. Adjacent lanes have adjacent
//                   columns, so that their accesses coalesce all the same.
template <uint32_t kStep>
struct Columns {
  uint32_t first, count;

  FRS_HOST_DEVICE bool has(uint32_t j) const { return (kStep == 1 ? first : first + j * kStep) < count; }
};
template <uint32_t kStep>
FRS_HOST_DEVICE Columns<kStep> columns_of(uint32_t tile_begin, uint32_t count, uint32_t lane,
                                          uint32_t width) {
  return {tile_begin + (kStep == 1 ? lane * width : lane), count};
}

// How one term of one level is divided into warp tiles. The `lanes` lanes of a row are adjacent; a warp
// processes 32 / lanes rows at a time.
struct Tiling {
  uint32_t batch = 0, rows = 0, columns = 0;
  uint32_t column_tiles = 0;  // tiles of lanes * width columns in a row
  uint32_t tile_rows = 0;     // rows of a tile, a multiple of 32 / lanes
  uint8_t lanes_log2 = 5;
  bool vectorized = false;     // all tensors of the term can be accessed 16 bytes at a time, see Columns
  bool location_major = true;  // rows are channels, columns are locations; else the other way round

  FRS_HOST_DEVICE uint32_t channels() const { return location_major ? rows : columns; }
  FRS_HOST_DEVICE uint32_t locations() const { return location_major ? columns : rows; }
  FRS_HOST_DEVICE uint32_t lanes() const { return 1u << lanes_log2; }
  FRS_HOST_DEVICE uint32_t rows_per_step() const { return kWarp >> lanes_log2; }
};

// The warp tiles of an image: this many, one after another, from `image * tiles_per_image` on. The term must
// have been divided.
FRS_HOST_DEVICE uint32_t tiles_per_image(const Tiling& tiling) {
  return tiling.column_tiles * ceil_div(tiling.rows, tiling.tile_rows);
}

struct WarpTile {
  uint32_t batch, row_begin, row_end, column;  // empty: row_begin == row_end
};

// `block` counts from the first block of the term. Consecutive tiles are adjacent in a row, then follow each
// other down the rows, then through the batch.
FRS_HOST_DEVICE WarpTile warp_tile_of(const Tiling& tiling, uint32_t block, uint32_t warp, uint32_t width) {
  uint32_t index = block * kWarps + warp;
  const uint32_t column_tile = index % tiling.column_tiles;
  index /= tiling.column_tiles;
  const uint32_t row_tiles = ceil_div(tiling.rows, tiling.tile_rows);
  const uint32_t row = index % row_tiles * tiling.tile_rows;
  const uint32_t batch = index / row_tiles;
  if (batch >= tiling.batch) return {0, 0, 0, 0};
  const uint32_t rows_left = tiling.rows - row;
  return {batch, row, row + (rows_left < tiling.tile_rows ? rows_left : tiling.tile_rows),
          column_tile * (width << tiling.lanes_log2)};
}

// The largest number of lanes to a row that leaves at most a fifth of them idle, or else the number that
// leaves the fewest idle. Without 16-byte accesses it is always a whole warp, so that the distance between a
// lane's columns is a compile-time constant.
inline uint8_t choose_lanes(uint32_t columns, uint32_t width, bool vectorized) {
  uint8_t best = 5;
  double best_use = 0;
  for (uint8_t log2 = 5; vectorized && log2 >= 2 && best_use < 0.8; --log2) {
    const uint32_t tile_columns = width << log2;
    const double use = columns / (static_cast<double>(ceil_div(columns, tile_columns)) * tile_columns);
    if (use > best_use) {
      best = log2;
      best_use = use;
    }
  }
  return best;
}

// Divides a term into tiles of `steps` steps of rows. Returns how many blocks they take.
inline uint32_t tile_term(Tiling& tiling, uint32_t width, uint32_t steps) {
  if (tiling.batch == 0 || tiling.rows == 0 || tiling.columns == 0) return 0;
  tiling.lanes_log2 = choose_lanes(tiling.columns, width, tiling.vectorized);
  tiling.column_tiles = ceil_div(tiling.columns, width << tiling.lanes_log2);
  tiling.tile_rows = steps * tiling.rows_per_step();
  const uint64_t tiles = uint64_t{tiles_per_image(tiling)} * tiling.batch;
  return static_cast<uint32_t>((tiles + kWarps - 1) / kWarps);
}

// Tall tiles amortize the fixed cost of a tile. A small call gets lower ones, to occupy the whole GPU.
constexpr uint32_t kMaxSteps = 32, kMinSteps = 8, kEnoughBlocks = 512;

// Divides all terms of a call. Writes the first block of each, and returns the number of blocks.
inline uint32_t tile_terms(Tiling* tilings, uint32_t* first_block, int count, uint32_t width) {
  uint32_t blocks = 0;
  for (uint32_t steps = kMaxSteps; steps >= kMinSteps; steps /= 2) {
    blocks = 0;
    for (int i = 0; i < count; ++i) {
      first_block[i] = blocks;
      blocks += tile_term(tilings[i], width, steps);
    }
    if (blocks >= kEnoughBlocks) break;
  }
  return blocks;
}

// Which of `count` consecutive ranges, some of them empty, contains `index`: the last i with first[i] <= it.
FRS_HOST_DEVICE int find_range(const uint32_t* first, int count, uint32_t index) {
  int range = 0;
  for (int i = 1; i < count; ++i) {
    if (first[i] <= index) range = i;
  }
  return range;
}

// The mask pass and the single pass: a block processes all channels of mask_tile_size(width) adjacent
// locations.
FRS_HOST_DEVICE constexpr uint32_t mask_tile_size(uint32_t width) { return width >= 4 ? 128 : kWarp * width; }

struct MaskTile {
  uint32_t batch, location;
};
FRS_HOST_DEVICE MaskTile mask_tile_of(uint32_t index, uint32_t locations, uint32_t width) {
  const uint32_t tiles = ceil_div(locations, mask_tile_size(width));
  return {index / tiles, index % tiles * mask_tile_size(width)};
}

// How one thread walks through a channel-major mask tile. The lanes of a location are adjacent; each takes
// every lanes-th vector of the location, and then moves on by row_step locations. All lanes of a warp make
// the same number of steps and leave their locations in the same step, so that they can reduce over a
// location's lanes with shuffles. A step that is not inside() the matrix has nothing to load.
struct LocationWalk {
  struct Position {
    uint32_t row, column;  // location, first channel of the vector
  };
  Position start;
  uint32_t columns, row_end;  // of the matrix; the tile may end before row_end
  uint32_t stride, row_step;  // from vector to vector of a location, from location to location
  uint32_t vectors, rows;     // steps per location (at least 1), locations

  FRS_HOST_DEVICE LocationWalk(const Tiling& tiling, uint32_t tile_begin, uint32_t thread, uint32_t width,
                               bool vectorized) {
    const uint32_t lane = thread % kWarp, lanes = tiling.lanes(), warp_rows = tiling.rows_per_step();
    start.row = tile_begin + thread / kWarp * warp_rows + (lane >> tiling.lanes_log2);
    start.column = vectorized ? (lane & (lanes - 1)) * width : lane;
    columns = tiling.columns;
    row_end = tiling.rows;
    stride = lanes * width;
    row_step = kWarps * warp_rows;
    vectors = columns == 0 ? 1 : ceil_div(columns, stride);
    rows = (mask_tile_size(width) << tiling.lanes_log2) / kThreads;
  }
  FRS_HOST_DEVICE uint32_t steps() const { return rows * vectors; }
  FRS_HOST_DEVICE bool inside(const Position& at) const { return at.row < row_end && at.column < columns; }

  // True where the next step is at another location.
  FRS_HOST_DEVICE bool advance(Position& at) const {
    at.column += stride;
    if (at.column - start.column < vectors * stride) return false;
    at.column = start.column;
    at.row += row_step;
    return true;
  }
};

}  // namespace frs::tiles
