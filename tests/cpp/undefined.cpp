// Evaluates frs/math.h for floats of all kinds, including many NaNs. tests/test_host_math.py builds it with
// -fsanitize=undefined, once per instruction set.
#include "cpu/vec.h"
#include "frs/math.h"

namespace {

using namespace frs;
using namespace frs::cpu::FRS_ISA;

volatile float kept;  // prevents the compiler from removing the calls

void keep(float x) { kept = x; }
void keep(Floats x) { kept = x[0]; }

template <class V>
void compute(V x, V t) {
  keep(frs::exp(x));
  keep(exp_nonpositive(negative_abs(x)));
  keep(frs::log1p(-negative_abs(x)));
  keep(sigmoid(x));
  const CrossEntropy<V> h = cross_entropy(x, t);
  for (float beta = 0.5f; beta < 4; beta *= 2) {
    const Focal<V> f = focal(h, beta);
    keep(f.value + f.slope);
  }
}

}  // namespace

int main() {
  for (uint64_t i = 0; i < uint64_t{1} << 32; i += 100003) {
    const uint32_t bits = static_cast<uint32_t>(i), other = bits * 2654435761u;
    compute(bit_cast<float>(bits), bit_cast<float>(other));
    compute(bit_cast<Floats>(Words{} + bits), bit_cast<Floats>(Words{} + other));
  }
}
