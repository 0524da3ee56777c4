// See cuda_runtime.h.
#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat162 {
  uint16_t x, y;
};
inline uint16_t emulated_bfloat16(float v) {  // to nearest, ties to even
  const uint32_t word = emulator::bits<uint32_t>(v);
  if (v != v) return 0x7FFF;
  return static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {emulated_bfloat16(x), emulated_bfloat16(y)};
}
