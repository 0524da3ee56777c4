// The scalar maths of frs/math.h on arrays, for tests: out[i] = f(x[i]), or out[i] = f(x[i], y[i]).
#pragma once

#include <cstdint>

namespace frs {

struct HostMath {
  using Function = void (*)(const float* x, const float* y, float* out, int64_t count);
  Function exp, exp_nonpositive, log1p, sigmoid, bce, bce_gradient;
};

namespace baseline {
const HostMath* functions();
}
namespace x86_64_v3 {
const HostMath* functions();
}
namespace x86_64_v4 {
const HostMath* functions();
}

}  // namespace frs
