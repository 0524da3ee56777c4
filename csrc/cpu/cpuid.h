// The instruction sets that the kernels are compiled for, and the one that this machine runs.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace frs::cpu {

enum class Isa { baseline, avx2, avx512 };

inline const char* name_of(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "default";
}

// "avx2" is compiled for x86-64-v3, "avx512" for x86-64-v4.
inline Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                  __builtin_cpu_supports("f16c");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v3) return v4 ? Isa::avx512 : Isa::avx2;
#endif
  return Isa::baseline;
}

// The best one that this machine supports, or a lesser one that ATEN_CPU_CAPABILITY names (default, avx2,
// avx512). Torch picks its own kernels by the same variable.
inline Isa picked_isa() {
  const Isa best = best_isa();
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");
  for (Isa isa : {Isa::baseline, Isa::avx2})
    if (wanted != nullptr && std::strcmp(wanted, name_of(isa)) == 0 && isa < best) return isa;
  return best;
}

}  // namespace frs::cpu
