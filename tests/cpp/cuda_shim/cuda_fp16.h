// See cuda_runtime.h. g++'s _Float16 rounds to nearest even and overflows to infinity, as the device does.
#pragma once

#include "cuda_runtime.h"

using __half = _Float16;
struct __half2 {
  _Float16 x, y;
};
inline float __half2float(__half v) { return static_cast<float>(v); }
inline __half __ushort_as_half(unsigned short v) { return emulator::bits<__half>(v); }
inline __half2 __floats2half2_rn(float x, float y) {
  return {static_cast<_Float16>(x), static_cast<_Float16>(y)};
}
