// Which instruction set runs: the best that the machine has, unless ATEN_CPU_CAPABILITY, torch's own variable for
// its own kernels (default, avx2, avx512), asks for less.
#include <cstdlib>
#include <cstring>

#include "isa.h"

namespace frs::cpu {
namespace {

#define FRS_KERNELS(name, isa) \
  Kernels { name, isa::mask, isa::head, isa::imitation, isa::single, isa::scale }

constexpr Kernels kBaseline = FRS_KERNELS("default", baseline);
#if defined(__x86_64__)
constexpr Kernels kAvx2 = FRS_KERNELS("avx2", x86_64_v3);
constexpr Kernels kAvx512 = FRS_KERNELS("avx512", x86_64_v4);
#endif

const Kernels& pick() {
#if defined(__x86_64__)
  const char* asked = std::getenv("ATEN_CPU_CAPABILITY");
  auto at_most = [&](const char* name) { return asked != nullptr && std::strcmp(asked, name) == 0; };
  if (at_most("default")) return kBaseline;
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4 && !at_most("avx2")) return kAvx512;
  if (v3) return kAvx2;
#endif
  return kBaseline;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& picked = pick();
  return picked;
}

const char* instruction_set() { return kernels().name; }

}  // namespace frs::cpu
