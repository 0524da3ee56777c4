// The Python module frs_kernels._host, for tests: the parts of the C++ that need no torch. The instruction
// sets of this machine, the settings of processors, the contract of frs/contract.h, the scalar maths of
// frs/math.h as each instruction set computes it, the tiles of frs/tiles.h, and the tasks of the CPU kernels.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/cpuid.h"
#include "cpu/settings.h"
#include "frs/contract.h"
#include "frs/tiles.h"
#include "host_math.h"
#include "host_tasks.h"

namespace frs {
namespace {

namespace py = pybind11;

// The constants of frs/contract.h, under the names of frs_kernels/contract.py.
py::dict contract() {
  py::dict dtypes, pending;
  const std::pair<const char*, DType> types[] = {
      {"float32", DType::f32}, {"bfloat16", DType::bf16}, {"float16", DType::f16}, {"float64", DType::f64}};
  for (const auto& [name, type] : types) {
    dtypes[name] = static_cast<int>(type);
    pending[name] = pending_factor(type);
  }
  py::dict normalizers;
  const std::pair<const char*, Normalizer> rules[] = {{"mask", Normalizer::mask},
                                                      {"mask_channels", Normalizer::mask_channels},
                                                      {"batch", Normalizer::batch},
                                                      {"numel", Normalizer::numel},
                                                      {"mask_all_levels", Normalizer::mask_all_levels},
                                                      {"value", Normalizer::value}};
  for (const auto& [name, normalizer] : rules) normalizers[name] = static_cast<int>(normalizer);
  using py::literals::operator""_a;
  return py::dict("DTYPES"_a = dtypes, "NORMALIZERS"_a = normalizers,
                  "NORMALIZER_EPSILON"_a = kNormalizerEpsilon, "MAX_LEVELS"_a = kMaxLevels,
                  "MAX_LOG_FACTORS"_a = kMaxLogFactors, "pending_factor"_a = pending);
}

// The row of the table in csrc/cpu/settings.cpp for a processor: its name and the settings.
std::pair<std::string, std::map<std::string, int64_t>> settings_of(const std::string& vendor, int family,
                                                                   int model, int64_t l1_bytes,
                                                                   int64_t l2_bytes) {
  cpu::Processor processor;
  vendor.copy(processor.vendor, sizeof(processor.vendor) - 1);
  processor.family = family, processor.model = model;
  processor.l1_bytes = l1_bytes, processor.l2_bytes = l2_bytes;
  const cpu::Row row = cpu::row_of(processor);
  std::map<std::string, int64_t> values;
#define FRS_VALUE(name, least, largest, meaning) values[#name] = row.settings.name;
  FRS_SETTINGS(FRS_VALUE)
#undef FRS_VALUE
  return {row.name, values};
}

double normalizer(int code, int64_t batch, int64_t channels, int64_t locations, double mask_sum,
                  double value) {
  return normalizer_of<double>(
      static_cast<Normalizer>(code), batch, channels, locations, [&] { return mask_sum; },
      [&] { return value; });
}

using Array = py::array_t<float, py::array::c_style | py::array::forcecast>;

// The scalar maths as compiled for one instruction set; see host_math.cpp.
const HostMath* math_of(const std::string& isa) {
  if (isa == "default") return baseline::functions();
#if defined(__x86_64__)
  if (isa == "avx2" && cpu::best_isa() >= cpu::Isa::avx2) return x86_64_v3::functions();
  if (isa == "avx512" && cpu::best_isa() >= cpu::Isa::avx512) return x86_64_v4::functions();
#endif
  throw py::value_error("this machine does not support the instruction set " + isa);
}

using Function = HostMath::Function HostMath::*;

Array map(Function function, const Array& x, const Array& y, const std::string& isa) {
  if (x.size() != y.size()) throw py::value_error("the arguments differ in size");
  Array out(x.size());
  (math_of(isa)->*function)(x.data(), y.data(), out.mutable_data(), x.size());
  return out;
}

void define_unary(py::module_& m, const char* name, Function function) {
  m.def(
      name, [=](const Array& x, const std::string& isa) { return map(function, x, x, isa); }, py::arg("x"),
      py::arg("isa"));
}
void define_binary(py::module_& m, const char* name, Function function) {
  m.def(
      name, [=](const Array& s, const Array& t, const std::string& isa) { return map(function, s, t, isa); },
      py::arg("student"), py::arg("teacher"), py::arg("isa"));
}

using TermShape = std::tuple<uint32_t, uint32_t, uint32_t, bool>;  // batch, rows, columns, vectorized
using WarpTile = std::tuple<int, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>;

// A launch of the loss kernel over `terms`.
struct Launch {
  std::vector<tiles::Tiling> tilings;
  std::vector<uint32_t> first_block;
  uint32_t blocks;

  Launch(const std::vector<TermShape>& terms, uint32_t width)
      : tilings(terms.size()), first_block(terms.size()) {
    for (size_t i = 0; i < terms.size(); ++i) {
      tiles::Tiling& t = tilings[i];
      std::tie(t.batch, t.rows, t.columns, t.vectorized) = terms[i];
    }
    blocks = tiles::tile_terms(tilings.data(), first_block.data(), static_cast<int>(terms.size()), width);
  }
};

// The tiles of all warps of all blocks in a launch of the loss kernel over `terms`, in this order:
// (term, batch, row_begin, row_end, column, lanes).
std::vector<WarpTile> warp_tiles(const std::vector<TermShape>& terms, uint32_t width) {
  const Launch launch(terms, width);
  std::vector<WarpTile> result;
  for (uint32_t block = 0; block < launch.blocks; ++block) {
    const int term =
        tiles::find_range(launch.first_block.data(), static_cast<int>(launch.first_block.size()), block);
    const tiles::Tiling& tiling = launch.tilings[term];
    for (uint32_t warp = 0; warp < tiles::kWarps; ++warp) {
      const auto tile = tiles::warp_tile_of(tiling, block - launch.first_block[term], warp, width);
      result.emplace_back(term, tile.batch, tile.row_begin, tile.row_end, tile.column, tiling.lanes());
    }
  }
  return result;
}

// How many warp tiles an image has in each term; 0 for a term without elements.
std::vector<uint32_t> tiles_per_image(const std::vector<TermShape>& terms, uint32_t width) {
  std::vector<uint32_t> result;
  for (const tiles::Tiling& t : Launch(terms, width).tilings) {
    const bool empty = t.batch == 0 || t.rows == 0 || t.columns == 0;
    result.push_back(empty ? 0 : tiles::tiles_per_image(t));
  }
  return result;
}

// The columns that each lane processes: adjacent (kStep == 1), or kStep == kWarp apart.
template <uint32_t kStep>
std::vector<std::vector<uint32_t>> lane_columns(uint32_t tile_begin, uint32_t count, uint32_t lanes,
                                                uint32_t width) {
  std::vector<std::vector<uint32_t>> result(lanes);
  for (uint32_t lane = 0; lane < lanes; ++lane) {
    const auto columns = tiles::columns_of<kStep>(tile_begin, count, lane, width);
    for (uint32_t j = 0; j < width; ++j)
      if (columns.has(j)) result[lane].push_back(columns.first + j * kStep);
  }
  return result;
}

using WalkStep =
    std::tuple<uint32_t, std::vector<uint32_t>, bool>;  // location, channels, leaves the location

// The steps of every thread of a block in the channel-major mask tile that begins at location `tile_begin` of
// [rows = locations, columns = channels].
std::vector<std::vector<WalkStep>> location_walk(uint32_t rows, uint32_t columns, uint32_t tile_begin,
                                                 uint32_t width, bool vectorized) {
  tiles::Tiling tiling;
  tiling.rows = rows, tiling.columns = columns;
  tiling.lanes_log2 = tiles::choose_lanes(columns, width, vectorized);
  std::vector<std::vector<WalkStep>> result(tiles::kThreads);
  for (uint32_t thread = 0; thread < tiles::kThreads; ++thread) {
    const tiles::LocationWalk walk(tiling, tile_begin, thread, width, vectorized);
    tiles::LocationWalk::Position at = walk.start;
    for (uint32_t step = 0; step < walk.steps(); ++step) {
      const uint32_t location = at.row, distance = vectorized ? 1 : tiles::kWarp;
      std::vector<uint32_t> channels;
      for (uint32_t j = 0; walk.inside(at) && j < width; ++j)
        if (at.column + j * distance < columns) channels.push_back(at.column + j * distance);
      const bool leaves = walk.advance(at);
      result[thread].emplace_back(location, channels, leaves);
    }
  }
  return result;
}

}  // namespace
}  // namespace frs

PYBIND11_MODULE(_host, m) {
  using namespace frs;
  m.def("instruction_sets", [] {  // that this machine supports
    std::vector<std::string> names;
    for (cpu::Isa isa : {cpu::Isa::baseline, cpu::Isa::avx2, cpu::Isa::avx512})
      if (isa <= cpu::best_isa()) names.emplace_back(cpu::name_of(isa));
    return names;
  });
  m.def("contract", contract);
  m.def("settings_of", settings_of, py::arg("vendor"), py::arg("family"), py::arg("model"),
        py::arg("l1_bytes"), py::arg("l2_bytes"));
  m.def("normalizer", normalizer, py::arg("code"), py::arg("batch"), py::arg("channels"),
        py::arg("locations"), py::arg("mask_sum"), py::arg("value"));
  define_unary(m, "exp", &HostMath::exp);
  define_unary(m, "exp_nonpositive", &HostMath::exp_nonpositive);
  define_unary(m, "log1p", &HostMath::log1p);
  define_unary(m, "sigmoid", &HostMath::sigmoid);
  define_binary(m, "bce", &HostMath::bce);
  define_binary(m, "bce_gradient", &HostMath::bce_gradient);
  m.def("location_walk", location_walk);
  m.def("warp_tiles", warp_tiles, py::arg("terms"), py::arg("width"));
  m.def("tiles_per_image", tiles_per_image, py::arg("terms"), py::arg("width"));
  m.def("lane_columns",
        [](uint32_t tile_begin, uint32_t count, uint32_t lanes, uint32_t width, bool vectorized) {
          return vectorized ? lane_columns<1>(tile_begin, count, lanes, width)
                            : lane_columns<tiles::kWarp>(tile_begin, count, tiles::kWarp, width);
        });
  define_tasks(m);
}
