// Compiled once per instruction set, like csrc/cpu/isa, and in the same vectors of floats: which operations
// are fused, and which polynomials are used, depends on the instruction set.
#include "host_math.h"

#include "cpu/vec.h"

namespace frs::FRS_ISA {
namespace {

using namespace cpu::FRS_ISA;

struct Exp {
  FRS_INLINE Floats operator()(Floats x, Floats) const { return frs::exp(x); }
};
struct ExpNonpositive {
  FRS_INLINE Floats operator()(Floats x, Floats) const { return exp_nonpositive(x); }
};
struct Log1p {
  FRS_INLINE Floats operator()(Floats x, Floats) const { return frs::log1p(x); }
};
struct Sigmoid {
  FRS_INLINE Floats operator()(Floats x, Floats) const { return sigmoid(x); }
};
struct Bce {
  FRS_INLINE Floats operator()(Floats s, Floats t) const { return bce(s, t); }
};
struct BceGradient {
  FRS_INLINE Floats operator()(Floats s, Floats t) const {
    return flip_by_sign(cross_entropy(s, t).slope, s);
  }
};

template <class F>
void map(const float* x, const float* y, float* out, int64_t count) {
  for_vectors<float>(0, count, [&](int64_t i, auto part) {
    store(out + i, part, F()(load(x + i, part), load(y + i, part)));
  });
}

constexpr HostMath kFunctions = {map<Exp>, map<ExpNonpositive>, map<Log1p>, map<Sigmoid>,
                                 map<Bce>, map<BceGradient>};

}  // namespace

const HostMath* functions() { return &kFunctions; }

}  // namespace frs::FRS_ISA
