// Picks the kernels of one instruction set at run time.
#include <algorithm>

#include "cpuid.h"
#include "isa.h"
#include "settings.h"

namespace frs::cpu {
namespace {

#define FRS_KERNELS(isa)                                                      \
  {isa::mask,          isa::head,     isa::imitation,   isa::single, isa::kl, \
   isa::kl_statistics, isa::kl_merge, isa::kl_gradient, isa::scale}

constexpr Kernels kBaseline = FRS_KERNELS(baseline);
#if defined(__x86_64__)
constexpr Kernels kAvx2 = FRS_KERNELS(x86_64_v3);
constexpr Kernels kAvx512 = FRS_KERNELS(x86_64_v4);
#endif

#if defined(__x86_64__)
// The instruction set that the machine, ATEN_CPU_CAPABILITY and the settings allow.
Isa isa_in_use() {
  static const Isa widest = picked_isa();
  const int64_t bytes = settings().vector_bytes;
  return std::min(widest, bytes >= 64 ? Isa::avx512 : bytes >= 32 ? Isa::avx2 : Isa::baseline);
}
#else
Isa isa_in_use() { return Isa::baseline; }
#endif

}  // namespace

const Kernels& kernels() {
#if defined(__x86_64__)
  const Isa isa = isa_in_use();
  if (isa == Isa::avx512) return kAvx512;
  if (isa == Isa::avx2) return kAvx2;
#endif
  return kBaseline;
}

}  // namespace frs::cpu

// For frs_kernels/cpu_settings.py, through Python's ctypes.
extern "C" __attribute__((visibility("default"))) const char* frs_instruction_set() {
  return frs::cpu::name_of(frs::cpu::isa_in_use());
}
