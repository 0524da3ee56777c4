// Codecs: how a kernel loads and stores vectors of elements of each type, and converts them to and from the
// accumulation dtype.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "frs/contract.h"
#include "frs/math.h"  // bit_cast

namespace frs::cuda {

#define FRS_DEVICE __device__ __forceinline__

FRS_DEVICE void load_quad(uint32_t* words, const void* p) {
  const uint4 quad = __ldcs(static_cast<const uint4*>(p));
  words[0] = quad.x, words[1] = quad.y, words[2] = quad.z, words[3] = quad.w;
}
FRS_DEVICE void store_quad(void* p, const uint32_t* words) {
  __stcs(static_cast<uint4*>(p), make_uint4(words[0], words[1], words[2], words[3]));
}

// A codec handles vectors of kWidth elements of one type, held as kWords 32-bit words.
//   bytes()                    size of one element
//   quads()                    16-byte accesses per vector
//   neutral(words)             sets all elements to -2^15, for those outside the tensor: a logit of sigmoid 0
//                              and loss 0, and a feature without a difference of student and teacher
//   load_vector(words, p)      16-byte loads, evict-first: of what the kernel overwrites
//   load_element(words, j, p)  loads element j alone
//   unpack(words, v)           converts to the accumulation dtype
//   store_vector(p, v)         converts; 16-byte stores, evict-first
//   store_element(p, v)        converts and stores one element, evict-first
// In load_vector and store_vector, p is aligned to 16 bytes.
template <DType kType>
struct Codec;

template <>
struct Codec<DType::f32> {
  using Acc = float;
  static constexpr int kWidth = 4, kWords = 4;

  explicit FRS_DEVICE Codec(DType) {}
  static FRS_DEVICE int quads() { return 1; }
  static FRS_DEVICE int64_t bytes() { return 4; }
  static FRS_DEVICE void neutral(uint32_t* words) {
    for (int j = 0; j < 4; ++j) words[j] = 0xC7000000;
  }
  static FRS_DEVICE void load_vector(uint32_t* words, const char* p) { load_quad(words, p); }
  static FRS_DEVICE void load_element(uint32_t* words, int j, const char* p) {
    words[j] = __ldg(reinterpret_cast<const uint32_t*>(p));
  }
  static FRS_DEVICE void unpack(const uint32_t* words, float* v) {
    for (int j = 0; j < 4; ++j) v[j] = __uint_as_float(words[j]);
  }
  static FRS_DEVICE void store_vector(char* p, const float* v) {
    uint32_t words[4];
    for (int j = 0; j < 4; ++j) words[j] = __float_as_uint(v[j]);
    store_quad(p, words);
  }
  static FRS_DEVICE void store_element(char* p, float v) { __stcs(reinterpret_cast<float*>(p), v); }
};

template <>
struct Codec<DType::f64> {
  using Acc = double;
  static constexpr int kWidth = 2, kWords = 4;

  explicit FRS_DEVICE Codec(DType) {}
  static FRS_DEVICE int quads() { return 1; }
  static FRS_DEVICE int64_t bytes() { return 8; }
  static FRS_DEVICE void neutral(uint32_t* words) {
    words[0] = words[2] = 0, words[1] = words[3] = 0xC0E00000;
  }
  static FRS_DEVICE void load_vector(uint32_t* words, const char* p) { load_quad(words, p); }
  static FRS_DEVICE void load_element(uint32_t* words, int j, const char* p) {
    const uint2 pair = __ldg(reinterpret_cast<const uint2*>(p));
    words[2 * j] = pair.x, words[2 * j + 1] = pair.y;
  }
  static FRS_DEVICE void unpack(const uint32_t* words, double* v) {
    for (int j = 0; j < 2; ++j) v[j] = __hiloint2double(words[2 * j + 1], words[2 * j]);
  }
  static FRS_DEVICE void store_vector(char* p, const double* v) {
    uint32_t words[4];
    for (int j = 0; j < 2; ++j) words[2 * j] = __double2loint(v[j]), words[2 * j + 1] = __double2hiint(v[j]);
    store_quad(p, words);
  }
  static FRS_DEVICE void store_element(char* p, double v) { __stcs(reinterpret_cast<double*>(p), v); }
};

// The two 16-bit types: two elements per word, the first in the low half.
template <class Half>
struct Codec16 {
  using Acc = float;
  static constexpr int kWidth = 8, kWords = 4;

  explicit FRS_DEVICE Codec16(DType) {}
  static FRS_DEVICE int quads() { return 1; }
  static FRS_DEVICE int64_t bytes() { return 2; }
  static FRS_DEVICE void neutral(uint32_t* words) {
    for (int j = 0; j < 4; ++j) words[j] = Half::kNeutral;
  }
  static FRS_DEVICE void load_vector(uint32_t* words, const char* p) { load_quad(words, p); }
  static FRS_DEVICE void load_element(uint32_t* words, int j, const char* p) {
    const uint32_t bits = __ldg(reinterpret_cast<const unsigned short*>(p));
    words[j / 2] = j % 2 ? (words[j / 2] & 0xFFFF) | bits << 16 : (words[j / 2] & 0xFFFF0000) | bits;
  }
  static FRS_DEVICE void unpack(const uint32_t* words, float* v) {
    for (int j = 0; j < 4; ++j) v[2 * j] = Half::low(words[j]), v[2 * j + 1] = Half::high(words[j]);
  }
  static FRS_DEVICE void store_vector(char* p, const float* v) {
    uint32_t words[4];
    for (int j = 0; j < 4; ++j) words[j] = Half::pack(v[2 * j], v[2 * j + 1]);
    store_quad(p, words);
  }
  static FRS_DEVICE void store_element(char* p, float v) {
    __stcs(reinterpret_cast<unsigned short*>(p), static_cast<unsigned short>(Half::pack(v, 0.0f)));
  }
};

struct Bfloat16 {
  static constexpr uint32_t kNeutral = 0xC700C700, kLowest = 0xFF80FF80;  // -Inf
  static FRS_DEVICE float low(uint32_t word) { return __uint_as_float(word << 16); }
  static FRS_DEVICE float high(uint32_t word) { return __uint_as_float(word & 0xFFFF0000); }
  static FRS_DEVICE uint32_t pack(float low, float high) {
    return bit_cast<uint32_t>(__floats2bfloat162_rn(low, high));
  }
#ifdef __CUDA_ARCH__
  static FRS_DEVICE uint32_t max_of_pairs(uint32_t a, uint32_t b) {
    uint32_t m;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(m) : "r"(a), "r"(b));
    return m;
  }
#endif
};
struct Float16 {
  static constexpr uint32_t kNeutral = 0xF800F800, kLowest = 0xFC00FC00;  // -Inf
  static FRS_DEVICE float low(uint32_t word) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
  }
  static FRS_DEVICE float high(uint32_t word) { return low(word >> 16); }
  static FRS_DEVICE uint32_t pack(float low, float high) {
    return bit_cast<uint32_t>(__floats2half2_rn(low, high));
  }
#ifdef __CUDA_ARCH__
  static FRS_DEVICE uint32_t max_of_pairs(uint32_t a, uint32_t b) {
    uint32_t m;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(m) : "r"(a), "r"(b));
    return m;
  }
#endif
};
template <>
struct Codec<DType::bf16> : Codec16<Bfloat16> {
  using Codec16::Codec16;
};
template <>
struct Codec<DType::f16> : Codec16<Float16> {
  using Codec16::Codec16;
};

// float32, bfloat16 or float16, chosen at run time, for calls whose lists differ in type. The branches do not
// diverge. A vector has 8 elements of every type, so that the tensors of a term advance in lockstep.
struct AnyCodec {
  using Acc = float;
  using F32 = Codec<DType::f32>;
  using F16 = Codec<DType::f16>;
  using Bf16 = Codec<DType::bf16>;
  static constexpr int kWidth = 8, kWords = 8;
  DType type;

  explicit FRS_DEVICE AnyCodec(DType type) : type(type) {}
  FRS_DEVICE bool is_f32() const { return type == DType::f32; }
  FRS_DEVICE int quads() const { return is_f32() ? 2 : 1; }
  FRS_DEVICE int64_t bytes() const { return is_f32() ? 4 : 2; }
  FRS_DEVICE void neutral(uint32_t* words) const {
    const uint32_t bits = is_f32() ? 0xC7000000 : type == DType::f16 ? Float16::kNeutral : Bfloat16::kNeutral;
    for (int j = 0; j < 8; ++j) words[j] = bits;
  }
  FRS_DEVICE void load_vector(uint32_t* words, const char* p) const {
    load_quad(words, p);
    if (is_f32()) load_quad(words + 4, p + 16);
  }
  FRS_DEVICE void load_element(uint32_t* words, int j, const char* p) const {
    if (is_f32()) return F32::load_element(words, j, p);
    Bf16::load_element(words, j, p);
  }
  FRS_DEVICE void unpack(const uint32_t* words, float* v) const {
    if (is_f32()) {
      for (int j = 0; j < 8; ++j) v[j] = __uint_as_float(words[j]);
    } else if (type == DType::f16) {
      F16::unpack(words, v);
    } else {
      Bf16::unpack(words, v);
    }
  }
  FRS_DEVICE void store_vector(char* p, const float* v) const {
    if (is_f32()) {
      F32::store_vector(p, v);
      F32::store_vector(p + 16, v + 4);
    } else if (type == DType::f16) {
      F16::store_vector(p, v);
    } else {
      Bf16::store_vector(p, v);
    }
  }
  FRS_DEVICE void store_element(char* p, float v) const {
    if (is_f32()) {
      F32::store_element(p, v);
    } else if (type == DType::f16) {
      F16::store_element(p, v);
    } else {
      Bf16::store_element(p, v);
    }
  }
};

}  // namespace frs::cuda
