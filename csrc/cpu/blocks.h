// How levels are split into tiles, and a tile as the block that a kernel takes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "settings.h"

namespace frs::cpu {

// A part of one image of one level: what a task processes.
struct Tile {
  int level = 0;
  int64_t image = 0;
  int64_t channel = 0, channels = 0;
  int64_t location = 0, locations = 0;
};

// Whether [begin, begin + length) is a part of [0, size).
inline bool is_within(int64_t begin, int64_t length, int64_t size) {
  return 0 <= begin && 0 <= length && begin + length <= size;
}

inline int64_t runs_of(int64_t locations) { return ceil_div(locations, kRun); }

// Locations of a tile of a mask pass or single pass, which has all channels. Sums are taken over runs, so the
// results do not depend on the tile, and the tile may depend on the number of threads. Long rows are read
// fastest, but there have to be enough tiles, of equal size, to balance the load.
inline int64_t mask_tile_locations(const Level& level, bool channel_major, int threads) {
  if (channel_major) return kRun;
  constexpr int64_t kTilesPerThread = 2;
  const int64_t most = settings().mask_row / kRun;
  const int64_t runs = level.batch * runs_of(level.locations);
  const int64_t tiles = threads * std::max(kTilesPerThread, ceil_div(runs, threads * most));
  return kRun * std::clamp<int64_t>(ceil_div(runs, tiles), 1, most);
}

// The size of a tile of a loss pass.
//
// A location-major tile has kMaxLogFactors channels and whole segments, each with a sum of its own. Its
// length may therefore depend on the number of threads: whole rows, which are contiguous, unless that makes
// too few tiles. A channel-major tile has one sum, and must not depend on the threads.
struct TileSize {
  int64_t channels, locations;
};
inline TileSize loss_tile_size(int64_t batch, int64_t channels, int64_t locations, bool channel_major,
                               int threads) {
  constexpr int64_t kElements = 1 << 16, kTilesPerThread = 4;
  if (channel_major) {
    const int64_t row = std::max<int64_t>(channels, 1);
    return {row, std::max<int64_t>(1, kElements / row)};
  }
  const int64_t segments = std::max<int64_t>(ceil_div(locations, kSegment), 1);
  const int64_t rows = batch * ceil_div(channels, kMaxLogFactors);
  const int64_t wanted =
      std::clamp<int64_t>(rows * segments / (kTilesPerThread * threads), 1, settings().loss_row / kSegment);
  return {kMaxLogFactors, kSegment * ceil_div(segments, ceil_div(segments, wanted))};
}

inline char* at(void* data, int64_t index, size_t size) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + index * static_cast<int64_t>(size);
}
inline char* at(const TensorView& v, const Tile& tile, DType type) {
  const int64_t index = tile.image * v.stride_b + tile.channel * v.stride_c + tile.location * v.stride_l;
  return at(v.data, index, size_of(type));
}

// A tile of one term. Where the student is absent, its type is the accumulation dtype.
inline Block block_of(const Level& level, const Term& term, const TermTypes& types, bool double_precision,
                      const Tile& tile) {
  FRS_CHECK(is_within(tile.image, 1, level.batch));
  FRS_CHECK(is_within(tile.channel, tile.channels, term.channels));
  FRS_CHECK(is_within(tile.location, tile.locations, level.locations));
  const size_t accumulation = double_precision ? 8 : 4;
  const bool channel_major = !term.location_major();
  auto stride = [&](const TensorView& v) { return channel_major ? v.stride_l : v.stride_c; };
  Block b;
  b.channels = tile.channels;
  b.locations = tile.locations;
  b.channel_major = channel_major;
  b.student_type = term.student.present() ? types.student : double_precision ? DType::f64 : DType::f32;
  b.teacher_type = types.teacher;
  b.student = at(term.student, tile, b.student_type);
  b.teacher = at(term.teacher, tile, b.teacher_type);
  b.grad = at(term.grad, tile, b.student_type);
  b.student_stride = stride(term.student);
  b.teacher_stride = stride(term.teacher);
  b.grad_stride = stride(term.grad);
  b.mask = at(level.mask, tile.image * level.locations + tile.location, accumulation);
  b.channel_weight =
      at(const_cast<void*>(term.channel_weight), tile.image * term.channels + tile.channel, accumulation);
  return b;
}

// Whether a gradient whose rows are `stride` elements apart is written with non-temporal stores. They write
// 32 bytes at a time, so every row has to begin at a multiple of 32 bytes.
inline bool suits_non_temporal_stores(const void* grad, int64_t stride, DType type, bool channel_major) {
  const Settings& t = settings();
  int64_t pays_off = 0;
  if (type == DType::f32) pays_off = channel_major ? t.non_temporal_fp32_channels_last : t.non_temporal_fp32;
  if (type == DType::bf16) pays_off = channel_major ? t.non_temporal_bf16_channels_last : t.non_temporal_bf16;
  const int64_t bytes = stride * static_cast<int64_t>(size_of(type));
  return pays_off && (reinterpret_cast<uintptr_t>(grad) | bytes) % 32 == 0;
}

}  // namespace frs::cpu
