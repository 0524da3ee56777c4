// Picks the kernels of one instruction set at run time.
#include "cpuid.h"
#include "isa.h"

namespace frs::cpu {
namespace {

#define FRS_KERNELS(isa) {isa::mask, isa::head, isa::imitation, isa::single, isa::scale}

constexpr Kernels kBaseline = FRS_KERNELS(baseline);
#if defined(__x86_64__)
constexpr Kernels kAvx2 = FRS_KERNELS(x86_64_v3);
constexpr Kernels kAvx512 = FRS_KERNELS(x86_64_v4);
#endif

const Kernels& pick() {
#if defined(__x86_64__)
  const Isa isa = picked_isa();
  if (isa == Isa::avx512) return kAvx512;
  if (isa == Isa::avx2) return kAvx2;
#endif
  return kBaseline;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& picked = pick();
  return picked;
}

}  // namespace frs::cpu

// For frs_kernels.info, through Python's ctypes.
extern "C" __attribute__((visibility("default"))) const char* frs_instruction_set() {
  return frs::cpu::name_of(frs::cpu::picked_isa());
}
