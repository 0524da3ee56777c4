// Which of the instruction sets that the kernels are compiled for runs on this machine.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace frs::cpu {

enum class Isa { baseline, avx2, avx512 };

inline const char* name_of(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "default";
}

// x86-64-v3 (what "avx2" is compiled for) and x86-64-v4 ("avx512").
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

// The best one, unless ATEN_CPU_CAPABILITY (default, avx2, avx512), by which torch picks its own kernels,
// asks for less.
inline Isa picked_isa() {
  const Isa best = best_isa();
  const char* asked = std::getenv("ATEN_CPU_CAPABILITY");
  for (Isa isa : {Isa::baseline, Isa::avx2})
    if (asked != nullptr && std::strcmp(asked, name_of(isa)) == 0 && isa < best) return isa;
  return best;
}

}  // namespace frs::cpu
