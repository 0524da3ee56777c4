// What differs between processors: a table of settings, of which a row is chosen when the library is loaded.
// No setting changes a result. frs_kernels/cpu_settings.py reads and changes them; docs/cpu-tuning/ says what
// each of them is worth.
#pragma once

#include <cstdint>

namespace frs::cpu {

// Name, least and largest value, meaning. Values are multiples of the least one, where it is not 0.
// clang-format off
#define FRS_SETTINGS(_)                                                                                    \
  _(vector_bytes, 16, 64, "width of vectors at most: 16 is the baseline, 32 AVX2, 64 AVX-512")             \
  _(prefetch_loss, 0, 65536, "NCHW logits, loss pass: prefetched so many elements ahead; 0: not at all")   \
  _(prefetch_single, 0, 65536, "NCHW logits, single pass: the same")                                       \
  _(prefetch_channels_last, 0, 65536, "channels_last logits, loss and single pass: the same")              \
  _(prefetch_mask_channels_last, 0, 65536, "channels_last logits, mask pass: the same, into all caches")   \
  _(prefetch_into_l2, 0, 1, "logits are prefetched into all caches; 0: into L1 alone (prefetchnta)")       \
  _(prefetch_rows, 0, 4, "NCHW masks and features: prefetched so many groups of rows ahead")               \
  _(non_temporal_fp32, 0, 1, "NCHW: float32 gradients are written with non-temporal stores")               \
  _(non_temporal_fp32_channels_last, 0, 1, "channels_last: the same")                                      \
  _(non_temporal_bf16, 0, 1, "NCHW: bfloat16 gradients are written with non-temporal stores")              \
  _(non_temporal_bf16_channels_last, 0, 1, "channels_last: the same")                                      \
  _(non_temporal_from, 0, 1 << 30, "bytes of all gradients together that non-temporal stores pay off for") \
  _(mask_row, 256, 8192, "NCHW mask and single pass: locations of a tile at most")                         \
  _(loss_row, 1024, 20480, "NCHW loss pass: locations of a tile at most")
// clang-format on

struct Settings {
#define FRS_MEMBER(name, least, largest, meaning) int64_t name;
  FRS_SETTINGS(FRS_MEMBER)
#undef FRS_MEMBER
};

// What the choice depends on.
struct Processor {
  char vendor[13] = "";                // as cpuid gives it; empty on other architectures
  int family = 0, model = 0;           // as Linux prints them
  int64_t l1_bytes = 0, l2_bytes = 0;  // data caches of a core; 0: unknown
};
struct Row {
  const char* name;
  Settings settings;
};
Row row_of(const Processor& processor);

// The settings in effect: this machine's, unless frs_change_setting has changed them, which is allowed only
// while no kernel runs.
const Settings& settings();

}  // namespace frs::cpu
