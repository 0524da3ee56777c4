// The table, the choice of a row, and what frs_kernels/cpu_settings.py calls through ctypes.
#include "settings.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "isa.h"

namespace frs::cpu {
namespace {

bool is_amd(const Processor& p, int family) {
  return std::strcmp(p.vendor, "AuthenticAMD") == 0 && p.family == family;
}
bool is_zen4(const Processor& p) {
  return is_amd(p, 25) && ((p.model >= 0x10 && p.model < 0x20) || p.model >= 0x60);
}
bool is_zen3(const Processor& p) { return is_amd(p, 25) && !is_zen4(p); }
bool is_zen5(const Processor& p) { return is_amd(p, 26); }

// The processors that have been measured.
struct Measured {
  const char* name;
  bool (*matches)(const Processor&);
  Settings settings;
};
constexpr int64_t kMiB = 1 << 20;
constexpr Measured kTable[] = {
    // vectors; prefetches: loss, single, channels_last (loss, mask), into L2, rows; non-temporal: fp32, bf16,
    // from; rows
    // of tiles
    {"AMD Zen 3", is_zen3, {32, 1024, 1024, 0, 4096, 0, 1, 1, 1, 1, 0, 16 * kMiB, 8192, 20480}},
    {"AMD Zen 4", is_zen4, {64, 1024, 8192, 0, 0, 0, 1, 1, 1, 1, 0, 16 * kMiB, 8192, 20480}},
    {"AMD Zen 5", is_zen5, {64, 1024, 8192, 0, 0, 0, 1, 1, 1, 1, 0, 16 * kMiB, 8192, 20480}},
};

// For all others. What is prefetched into L1 has to stay there until it is read: two tensors of at most 4
// bytes per element take a quarter of it. What a tile keeps per location, 8 bytes in the loss pass and up to
// 16 in the single pass, takes half of L2.
Settings default_settings(const Processor& p) {
  const int64_t l1 = p.l1_bytes > 0 ? p.l1_bytes : 32 << 10, l2 = p.l2_bytes > 0 ? p.l2_bytes : 256 << 10;
  const int64_t ahead = std::clamp<int64_t>(l1 / 4 / 8, 256, 1024);
  const int64_t mask_row = std::clamp<int64_t>(l2 / 2 / 16 / kRun * kRun, kRun, kMaxMaskTile);
  const int64_t loss_row = std::clamp<int64_t>(l2 / 2 / 8 / kSegment * kSegment, kSegment, kMaxLossTile);
  return {64, ahead, ahead, 0, 0, 0, 1, 1, 1, 1, 0, 16 * kMiB, mask_row, loss_row};
}

Processor this_processor() {
  Processor p;
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx)) {
    const unsigned letters[] = {ebx, edx, ecx};
    std::memcpy(p.vendor, letters, sizeof(letters));
  }
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) {
    const unsigned family = eax >> 8 & 15, extended = eax >> 20 & 255;
    p.family = static_cast<int>(family == 15 ? family + extended : family);
    p.model = static_cast<int>((eax >> 4 & 15) | (eax >> 12 & 0xf0));
  }
#endif
#if defined(_SC_LEVEL1_DCACHE_SIZE)  // glibc
  p.l1_bytes = std::max<int64_t>(sysconf(_SC_LEVEL1_DCACHE_SIZE), 0);
  p.l2_bytes = std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), 0);
#endif
  return p;
}

const Row& this_row() {
  static const Row row = row_of(this_processor());
  return row;
}

Settings& present() {
  static Settings in_effect = this_row().settings;
  return in_effect;
}

// Whether a setting may have the value.
constexpr bool allows(int64_t least, int64_t largest, int64_t value) {
  return least <= value && value <= largest && (least == 0 || value % least == 0);
}

}  // namespace

Row row_of(const Processor& p) {
  for (const Measured& row : kTable)
    if (row.matches(p)) return {row.name, row.settings};
  return {"default", default_settings(p)};
}

const Settings& settings() { return present(); }

}  // namespace frs::cpu

#define FRS_EXPORT extern "C" __attribute__((visibility("default")))

// The name of this machine's row of the table.
FRS_EXPORT const char* frs_processor() { return frs::cpu::this_row().name; }

// One line for each setting: name, value, least and largest value, meaning, separated by tabs. The text is
// valid until this thread calls the function again.
FRS_EXPORT const char* frs_settings() {
  static thread_local std::string lines;
  lines.clear();
#define FRS_LINE(name, least, largest, meaning)                                                           \
  lines += #name "\t" + std::to_string(frs::cpu::settings().name) + "\t" + std::to_string(least) + "\t" + \
           std::to_string(largest) + "\t" meaning "\n";
  FRS_SETTINGS(FRS_LINE)
#undef FRS_LINE
  return lines.c_str();
}

// Returns whether there is such a setting and it may have the value. No kernel may run at the same time.
FRS_EXPORT bool frs_change_setting(const char* setting, int64_t value) {
#define FRS_CHANGE(name, least, largest, meaning)                                    \
  if (std::strcmp(setting, #name) == 0 && frs::cpu::allows(least, largest, value)) { \
    frs::cpu::present().name = value;                                                \
    return true;                                                                     \
  }
  FRS_SETTINGS(FRS_CHANGE)
#undef FRS_CHANGE
  return false;
}
