// How ragged levels are cut into equal pieces of work for the blocks and warps of a GPU. Plain arithmetic,
// shared by the launchers, the kernels and (through the module _host) the tests.
//
// One term of one level (student, teacher and gradient) is, for every batch entry, a matrix whose columns lie
// next to each other in memory: location-major [rows = channels, columns = locations], channel-major the
// other way round.
#pragma once

#include <cstdint>

#include "frs/host_device.h"

namespace frs::tiles {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kWarps = 8;  // warps of a block
constexpr uint32_t kThreads = kWarp * kWarps;

FRS_HOST_DEVICE constexpr uint32_t ceil_div(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

// The columns that one lane works on: first + j * kStep for j < width, as far as they are below `count`.
// Wide, kStep == 1: `width` neighbours in one aligned 16-byte access, all of them inside or none.
// Narrow, kStep == the number of lanes: neighbouring lanes take neighbouring columns, so that single-element
// accesses coalesce too.
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

// The pieces of one term of one level. A warp's piece is a tile of columns in a range of rows of one batch
// entry; its lanes stand side by side, `lanes` to a row, 32 / lanes rows at a time.
struct Cut {
  uint32_t batch = 0, rows = 0, columns = 0;
  uint32_t column_tiles = 0;    // tiles of lanes * width columns
  uint32_t rows_per_piece = 0;  // a multiple of 32 / lanes
  uint8_t lanes_log2 = 5;
  bool wide = false;           // the accesses of every tensor of the term, see Columns
  bool location_major = true;  // rows are channels and columns locations, or else the other way round

  FRS_HOST_DEVICE uint32_t channels() const { return location_major ? rows : columns; }
  FRS_HOST_DEVICE uint32_t locations() const { return location_major ? columns : rows; }
  FRS_HOST_DEVICE uint32_t lanes() const { return 1u << lanes_log2; }
  FRS_HOST_DEVICE uint32_t rows_per_step() const { return kWarp >> lanes_log2; }
};

struct Piece {
  uint32_t batch, row_begin, row_end, column;  // empty: row_begin == row_end
};

// `block` counts from the first block of the term.
FRS_HOST_DEVICE Piece piece_of(const Cut& cut, uint32_t block, uint32_t warp, uint32_t width) {
  uint32_t unit = block * kWarps + warp;
  const uint32_t tile = unit % cut.column_tiles;
  unit /= cut.column_tiles;
  const uint32_t pieces = ceil_div(cut.rows, cut.rows_per_piece);
  const uint32_t row = unit % pieces * cut.rows_per_piece;
  const uint32_t entry = unit / pieces;
  if (entry >= cut.batch) return {0, 0, 0, 0};
  const uint32_t left = cut.rows - row;
  return {entry, row, row + (left < cut.rows_per_piece ? left : cut.rows_per_piece),
          tile * (width << cut.lanes_log2)};
}

// As many lanes to a row as leave at most a fifth of them idle; failing that, the number that idles least.
// Narrow columns are always dealt to a whole warp: their step is known at compile time then.
inline uint8_t choose_lanes(uint32_t columns, uint32_t width, bool wide) {
  uint8_t best = 5;
  double best_use = 0;
  for (uint8_t log2 = 5; wide && log2 >= 2 && best_use < 0.8; --log2) {
    const uint32_t tile = width << log2;
    const double use = columns / (static_cast<double>(ceil_div(columns, tile)) * tile);
    if (use > best_use) {
      best = log2;
      best_use = use;
    }
  }
  return best;
}

// Cuts a [batch, rows, columns] term into pieces of `steps` steps of rows; returns how many blocks they take.
inline uint32_t cut_term(Cut& c, uint32_t width, uint32_t steps) {
  if (c.batch == 0 || c.rows == 0 || c.columns == 0) return 0;
  c.lanes_log2 = choose_lanes(c.columns, width, c.wide);
  c.column_tiles = ceil_div(c.columns, width << c.lanes_log2);
  c.rows_per_piece = steps * c.rows_per_step();
  const uint64_t units = uint64_t{c.column_tiles} * ceil_div(c.rows, c.rows_per_piece) * c.batch;
  return static_cast<uint32_t>((units + kWarps - 1) / kWarps);
}

// Long pieces amortise what a piece costs once; a small call is cut finer, to occupy the whole device.
constexpr uint32_t kMaxSteps = 32, kMinSteps = 8, kEnoughBlocks = 512;

// Cuts all terms of a call; writes the first block of each and returns the number of blocks.
inline uint32_t cut_terms(Cut* cuts, uint32_t* first_block, int count, uint32_t width) {
  uint32_t blocks = 0;
  for (uint32_t steps = kMaxSteps; steps >= kMinSteps; steps /= 2) {
    blocks = 0;
    for (int i = 0; i < count; ++i) {
      first_block[i] = blocks;
      blocks += cut_term(cuts[i], width, steps);
    }
    if (blocks >= kEnoughBlocks) break;
  }
  return blocks;
}

// The last i < count with first[i] <= index: where `index` falls among consecutive ranges, some of them
// empty.
FRS_HOST_DEVICE int find_range(const uint32_t* first, int count, uint32_t index) {
  int found = 0;
  for (int i = 1; i < count; ++i) {
    if (first[i] <= index) found = i;
  }
  return found;
}

// Score tiles: a block takes `score_tile(width)` neighbouring locations of one batch entry, with all their
// channels.
FRS_HOST_DEVICE constexpr uint32_t score_tile(uint32_t width) { return width >= 4 ? 128 : kWarp * width; }

struct ScoreTile {
  uint32_t batch, location;
};
FRS_HOST_DEVICE ScoreTile score_tile_of(uint32_t index, uint32_t locations, uint32_t width) {
  const uint32_t tiles = ceil_div(locations, score_tile(width));
  return {index / tiles, index % tiles * score_tile(width)};
}

}  // namespace frs::tiles
