// One term of a tile of locations whose S is known: loss and gradient, in one sweep over all channels.
#pragma once

#include "stream.cuh"

namespace frs::cuda {

// Element j of a run is j rows further down: where rows are too short or not aligned for wide access, a lane
// has one column, and as many loads under way as a run has elements. `rows` of them are inside the tensor.
template <class C>
FRS_DEVICE void load_column(const C& codec, uint32_t* words, const char* p, int64_t row_bytes,
                            uint32_t rows) {
  codec.neutral(words);
#pragma unroll
  for (uint32_t j = 0; j < C::kWidth; ++j) {
    if (j < rows) codec.load_one(words, j, p + j * row_bytes);
  }
}

template <class C>
FRS_DEVICE void store_column(const C& codec, char* p, int64_t row_bytes, uint32_t rows,
                             const typename C::Acc* v) {
#pragma unroll
  for (uint32_t j = 0; j < C::kWidth; ++j) {
    if (j < rows) codec.store_one(p + j * row_bytes, v[j]);
  }
}

// How the threads of a block share a narrow location-major tile: kTile locations side by side, kWidth
// channels at a time.
template <class C>
struct Columnwise {
  static constexpr uint32_t kTile = once_tile(C::kWidth), kStep = kThreads / kTile * C::kWidth;
  uint32_t place, row, count;  // a location of the tile; the first row; how many steps from there

  explicit FRS_DEVICE Columnwise(const Cut& cut, uint32_t location)
      : place(threadIdx.x % kTile), row(threadIdx.x / kTile * C::kWidth) {
    count = location + place < cut.columns ? rows_between(row, cut.rows, kStep) : 0;
  }
  FRS_DEVICE Columns<1> column(uint32_t location) const { return {location + place, location + place + 1}; }
};

// Every thread takes the runs that Scorer has given it, the last one first: these are surely in the L2 still.
// Returns its share of scale * the sum of S * loss, and writes the gradient if that is present.
template <class Loss, class C, class Pipe>
struct Sweep {
  using Acc = typename C::Acc;
  static constexpr int kWidth = C::kWidth;
  static constexpr uint32_t kTile = once_tile(kWidth);

  const Loss& loss;
  const C &student, &teacher;
  const Term& term;
  const Cut& cut;
  const tiles::ScoreTile tile;
  const Acc* score;           // shared memory: S of the locations from tile.location on
  const Acc* channel_weight;  // of the tile's batch entry, or nullptr
  const Acc scale;
  Pipe& pipe;

  FRS_DEVICE Acc channel_factor(uint32_t row) const {
    return Loss::kChannelWeighted && channel_weight != nullptr ? channel_weight[row] : Acc(1);
  }
  FRS_DEVICE bool stores() const { return term.gradient.data != nullptr; }

  // 16 bytes of neighbouring locations to a lane, the channels dealt out to groups of lanes.
  FRS_DEVICE Acc wide_rows() const {
    constexpr uint32_t kLanes = kTile / kWidth, kGroups = kThreads / kLanes;
    const uint32_t lane = threadIdx.x % kLanes;
    const auto columns = tiles::columns_of<1>(tile.location, cut.columns, lane, kWidth);
    uint32_t row = threadIdx.x / kLanes, left = columns.has(0) ? rows_between(row, cut.rows, kGroups) : 0;
    if (left == 0) return 0;
    row += (left - 1) * kGroups;
    Cursor s_at = Cursor::at(student, term.student, tile.batch, row, kGroups, columns);
    Cursor t_at = Cursor::at(teacher, term.teacher, tile.batch, row, kGroups, columns);
    Cursor g_at = Cursor::at(student, term.gradient, tile.batch, row, kGroups, columns);
    Acc factor[kWidth], total = 0;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) factor[j] = scale * score[lane * kWidth + j];
    while (left > 0) {
      typename Loss::Sums sums[kWidth];
      const uint32_t count = left < Loss::kMaxFactors ? left : Loss::kMaxFactors;
      left -= count;
      auto fetch = [&](uint32_t stage) {
        pipe.fetch(stage, 0, student, s_at.data);
        pipe.fetch(stage, 1, teacher, t_at.data);
        s_at = s_at.plus(-1);
        t_at = t_at.plus(-1);
      };
      pipe.pipeline(count, fetch, [&](uint32_t stage) {
        Acc x[kWidth], y[kWidth];
        take(stage, x, y);
        const Acc channel = channel_factor(row);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) x[j] = loss.add(x[j], y[j], channel, sums[j]) * factor[j];
        if (stores()) student.store_run(g_at.data, x);
        g_at = g_at.plus(-1);
        row -= kGroups;
      });
#pragma unroll
      for (int j = 0; j < kWidth; ++j) total += factor[j] * loss.value(sums[j]);
    }
    return total;
  }

  FRS_DEVICE void take(uint32_t stage, Acc* x, Acc* y) const {
    uint32_t s[C::kWords], t[C::kWords];
    pipe.read(stage, 0, student, s);
    pipe.read(stage, 1, teacher, t);
    student.unpack(s, x);
    teacher.unpack(t, y);
  }

  FRS_DEVICE Acc narrow_rows() const {
    using Shape = Columnwise<C>;
    const Shape shape(cut, tile.location);
    if (shape.count == 0) return 0;
    uint32_t row = shape.row + (shape.count - 1) * Shape::kStep;
    const auto column = shape.column(tile.location);
    Cursor s_at = Cursor::at(student, term.student, tile.batch, row, Shape::kStep, column);
    Cursor t_at = Cursor::at(teacher, term.teacher, tile.batch, row, Shape::kStep, column);
    Cursor g_at = Cursor::at(student, term.gradient, tile.batch, row, Shape::kStep, column);
    const int64_t s_row = term.student.row_stride * student.bytes();
    const int64_t t_row = term.teacher.row_stride * teacher.bytes();
    const int64_t g_row = term.gradient.row_stride * student.bytes();
    const Acc factor = scale * score[shape.place];
    typename Loss::Sums sums;
    Acc total = 0;
#pragma unroll 1
    for (uint32_t left = shape.count; left > 0; --left) {
      uint32_t s[C::kWords], t[C::kWords];
      load_column(student, s, s_at.data, s_row, cut.rows - row);
      load_column(teacher, t, t_at.data, t_row, cut.rows - row);
      Acc x[kWidth], y[kWidth];
      student.unpack(s, x);
      teacher.unpack(t, y);
#pragma unroll
      for (uint32_t j = 0; j < kWidth; ++j) {
        const Acc channel = j < cut.rows - row ? channel_factor(row + j) : Acc(1);
        x[j] = loss.add(x[j], y[j], channel, sums) * factor;
      }
      if (stores()) store_column(student, g_at.data, g_row, cut.rows - row, x);
      if ((left - 1) % (Loss::kMaxFactors / kWidth) == 0) {
        total += factor * loss.value(sums);
        sums = {};
      }
      s_at = s_at.plus(-1), t_at = t_at.plus(-1), g_at = g_at.plus(-1);
      row -= Shape::kStep;
    }
    return total;
  }

  // A lane's place in a tensor on its way back through the tile: the runs of a location from the last to the
  // first, `to_run` bytes apart, then those of the location before.
  struct Retreat {
    char* data;
    int64_t to_row;  // bytes back to the last run of the row before

    FRS_DEVICE void move(bool row_ends, int64_t to_run) { data -= row_ends ? to_row : to_run; }
  };

  // Rows are locations: `lanes` lanes walk along the channels of one, 32 / lanes locations to a warp at a
  // time.
  template <bool kWide>
  FRS_DEVICE Acc channel_major() const {
    constexpr uint32_t kStep = kWide ? 1 : kWarp;
    const uint32_t lane = threadIdx.x % kWarp, lanes = cut.lanes(), stride = lanes * kWidth;
    const uint32_t step = kWarps * cut.rows_per_step(), end = tile.location + kTile;
    const uint32_t first = kWide ? (lane & (lanes - 1)) * kWidth : lane;
    const uint32_t runs = first < cut.columns ? tiles::ceil_div(cut.columns - first, stride) : 0;
    uint32_t row = tile.location + threadIdx.x / kWarp * cut.rows_per_step() + (lane >> cut.lanes_log2);
    const uint32_t rows = rows_between(row, end < cut.rows ? end : cut.rows, step);
    if (rows * runs == 0) return 0;
    row += (rows - 1) * step;
    uint32_t run = runs - 1, ahead = run;
    auto columns_at = [&](uint32_t index) { return Columns<kStep>{first + index * stride, cut.columns}; };
    auto start = [&](const C& codec, const Side& side) -> Retreat {
      const Cursor at = Cursor::at(codec, side, tile.batch, row, step, columns_at(run));
      return {at.data, at.stride - run * stride * codec.bytes()};
    };
    const int64_t s_run = stride * student.bytes(), t_run = stride * teacher.bytes();
    Retreat s_at = start(student, term.student), t_at = start(teacher, term.teacher);
    Retreat g_at = start(student, term.gradient);
    typename Loss::Sums sums;
    Acc total = 0;

    auto fetch = [&](uint32_t stage) {
      pipe.fetch(stage, 0, student, s_at.data);
      pipe.fetch(stage, 1, teacher, t_at.data);
      s_at.move(ahead == 0, s_run);
      t_at.move(ahead == 0, t_run);
      ahead = ahead == 0 ? runs - 1 : ahead - 1;
    };
    auto use = [&](uint32_t stage) {
      Acc x[kWidth], y[kWidth], channel[kWidth];
      const auto columns = columns_at(run);
      if constexpr (kWide) {
        take(stage, x, y);
      } else {
        uint32_t s[C::kWords], t[C::kWords];
        load_narrow(student, s, s_at.data, columns);
        load_narrow(teacher, t, t_at.data, columns);
        student.unpack(s, x);
        teacher.unpack(t, y);
        s_at.move(run == 0, s_run);
        t_at.move(run == 0, t_run);
      }
      if constexpr (Loss::kChannelWeighted) load_factors<kWidth>(channel, channel_weight, columns);
      const Acc factor = scale * score[row - tile.location];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        x[j] = loss.add(x[j], y[j], Loss::kChannelWeighted ? channel[j] : Acc(1), sums) * factor;
      }
      if (stores()) store_row(student, g_at.data, columns, x);
      if (run % (Loss::kMaxFactors / kWidth) == 0) {  // the row's last one, 0, too
        total += factor * loss.value(sums);
        sums = {};
      }
      const bool row_ends = run == 0;
      g_at.move(row_ends, s_run);
      if (row_ends) row -= step;
      run = row_ends ? runs - 1 : run - 1;
    };
    if constexpr (kWide) {
      pipe.pipeline(rows * runs, fetch, use);
    } else {
#pragma unroll 1
      for (uint32_t left = rows * runs; left > 0; --left) use(0);
    }
    return total;
  }

  FRS_DEVICE Acc run() const {
    if (cut.location_major) return cut.wide ? wide_rows() : narrow_rows();
    return cut.wide ? channel_major<true>() : channel_major<false>();
  }

  // Zeros for a gradient whose Z is 0: nothing is read.
  FRS_DEVICE void clear() const {
    const uint32_t end = tile.location + kTile, locations = cut.locations();
    const uint32_t width = (end < locations ? end : locations) - tile.location;
    const uint32_t columns = cut.location_major ? width : cut.columns;
    const uint32_t rows = cut.location_major ? cut.rows : width;
    const uint32_t row = cut.location_major ? 0 : tile.location;
    const uint32_t column = cut.location_major ? tile.location : 0;
    for (uint32_t r = row + threadIdx.x / kWarp; r < row + rows; r += kWarps) {
      for (uint32_t c = column + threadIdx.x % kWarp; c < column + columns; c += kWarp) {
        const Columns<1> at{c, c + 1};
        student.store_one(Cursor::at(student, term.gradient, tile.batch, r, 1, at).data, Acc(0));
      }
    }
  }
};

}  // namespace frs::cuda
