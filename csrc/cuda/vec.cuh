// Runs of neighbouring elements as they lie in memory, and their conversion to and from the accumulation
// type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "frs/contract.h"
#include "frs/math.h"  // bit_cast

namespace frs::cuda {

#define FRS_DEVICE __device__ __forceinline__

FRS_DEVICE void load_quad(uint32_t* word, const void* p) {
  const uint4 quad = __ldcs(static_cast<const uint4*>(p));
  word[0] = quad.x, word[1] = quad.y, word[2] = quad.z, word[3] = quad.w;
}
FRS_DEVICE void store_quad(void* p, const uint32_t* word) {
  __stcs(static_cast<uint4*>(p), make_uint4(word[0], word[1], word[2], word[3]));
}

// A codec reads and writes runs of kWidth elements of one type, kWords 32-bit words. A thread has kRows of
// them of each tensor in flight where arithmetic leaves it the registers.
//   bytes()                of one element                        quads()   16-byte accesses of a run
//   neutral(word)          the run of elements outside the tensor: -2^15 in every type. As a logit it has a
//                          sigmoid and terms of the loss of 0; as a feature of both sides, a difference of 0
//   load_run(word, p)      one run, p aligned to 16 bytes        load_one(word, j, p)   element j of a run
//   unpack(word, v)        to the accumulation type
//   store_run(p, v)        one run, p aligned to 16 bytes        store_one(p, v)        one element
template <DType kType>
struct Codec;

template <>
struct Codec<DType::f32> {
  using Acc = float;
  static constexpr int kWidth = 4, kWords = 4;

  explicit FRS_DEVICE Codec(DType) {}
  static FRS_DEVICE int quads() { return 1; }
  static FRS_DEVICE int64_t bytes() { return 4; }
  static FRS_DEVICE void neutral(uint32_t* word) {
    for (int j = 0; j < 4; ++j) word[j] = 0xC7000000;
  }
  static FRS_DEVICE void load_run(uint32_t* word, const char* p) { load_quad(word, p); }
  static FRS_DEVICE void load_one(uint32_t* word, int j, const char* p) {
    word[j] = __ldg(reinterpret_cast<const uint32_t*>(p));
  }
  static FRS_DEVICE void unpack(const uint32_t* word, float* v) {
    for (int j = 0; j < 4; ++j) v[j] = __uint_as_float(word[j]);
  }
  static FRS_DEVICE void store_run(char* p, const float* v) {
    uint32_t word[4];
    for (int j = 0; j < 4; ++j) word[j] = __float_as_uint(v[j]);
    store_quad(p, word);
  }
  static FRS_DEVICE void store_one(char* p, float v) { __stcs(reinterpret_cast<float*>(p), v); }
};

template <>
struct Codec<DType::f64> {
  using Acc = double;
  static constexpr int kWidth = 2, kWords = 4;

  explicit FRS_DEVICE Codec(DType) {}
  static FRS_DEVICE int quads() { return 1; }
  static FRS_DEVICE int64_t bytes() { return 8; }
  static FRS_DEVICE void neutral(uint32_t* word) { word[0] = word[2] = 0, word[1] = word[3] = 0xC0E00000; }
  static FRS_DEVICE void load_run(uint32_t* word, const char* p) { load_quad(word, p); }
  static FRS_DEVICE void load_one(uint32_t* word, int j, const char* p) {
    const uint2 pair = __ldg(reinterpret_cast<const uint2*>(p));
    word[2 * j] = pair.x, word[2 * j + 1] = pair.y;
  }
  static FRS_DEVICE void unpack(const uint32_t* word, double* v) {
    for (int j = 0; j < 2; ++j) v[j] = __hiloint2double(word[2 * j + 1], word[2 * j]);
  }
  static FRS_DEVICE void store_run(char* p, const double* v) {
    uint32_t word[4];
    for (int j = 0; j < 2; ++j) word[2 * j] = __double2loint(v[j]), word[2 * j + 1] = __double2hiint(v[j]);
    store_quad(p, word);
  }
  static FRS_DEVICE void store_one(char* p, double v) { __stcs(reinterpret_cast<double*>(p), v); }
};

// The two 16-bit types: two elements to a word, the first in its low half.
template <class Half>
struct Codec16 {
  using Acc = float;
  static constexpr int kWidth = 8, kWords = 4;

  explicit FRS_DEVICE Codec16(DType) {}
  static FRS_DEVICE int quads() { return 1; }
  static FRS_DEVICE int64_t bytes() { return 2; }
  static FRS_DEVICE void neutral(uint32_t* word) {
    for (int j = 0; j < 4; ++j) word[j] = Half::kNeutral;
  }
  static FRS_DEVICE void load_run(uint32_t* word, const char* p) { load_quad(word, p); }
  static FRS_DEVICE void load_one(uint32_t* word, int j, const char* p) {
    const uint32_t bits = __ldg(reinterpret_cast<const unsigned short*>(p));
    word[j / 2] = j % 2 ? (word[j / 2] & 0xFFFF) | bits << 16 : (word[j / 2] & 0xFFFF0000) | bits;
  }
  static FRS_DEVICE void unpack(const uint32_t* word, float* v) {
    for (int j = 0; j < 4; ++j) v[2 * j] = Half::low(word[j]), v[2 * j + 1] = Half::high(word[j]);
  }
  static FRS_DEVICE void store_run(char* p, const float* v) {
    uint32_t word[4];
    for (int j = 0; j < 4; ++j) word[j] = Half::pack(v[2 * j], v[2 * j + 1]);
    store_quad(p, word);
  }
  static FRS_DEVICE void store_one(char* p, float v) {
    __stcs(reinterpret_cast<unsigned short*>(p), static_cast<unsigned short>(Half::pack(v, 0.0f)));
  }
};

struct Bfloat16 {
  static constexpr uint32_t kNeutral = 0xC700C700;
  static FRS_DEVICE float low(uint32_t word) { return __uint_as_float(word << 16); }
  static FRS_DEVICE float high(uint32_t word) { return __uint_as_float(word & 0xFFFF0000); }
  static FRS_DEVICE uint32_t pack(float low, float high) {
    return bit_cast<uint32_t>(__floats2bfloat162_rn(low, high));
  }
};
struct Float16 {
  static constexpr uint32_t kNeutral = 0xF800F800;
  static FRS_DEVICE float low(uint32_t word) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
  }
  static FRS_DEVICE float high(uint32_t word) { return low(word >> 16); }
  static FRS_DEVICE uint32_t pack(float low, float high) {
    return bit_cast<uint32_t>(__floats2half2_rn(low, high));
  }
};
template <>
struct Codec<DType::bf16> : Codec16<Bfloat16> {
  using Codec16::Codec16;
};
template <>
struct Codec<DType::f16> : Codec16<Float16> {
  using Codec16::Codec16;
};

// float32, bfloat16 or float16, known at run time only: for lists whose types differ from each other. The
// branches are the same for all threads. A run has the 8 elements of the 16-bit types, so that the lists walk
// in step.
struct AnyCodec {
  using Acc = float;
  using F32 = Codec<DType::f32>;
  using F16 = Codec<DType::f16>;
  using Bf16 = Codec<DType::bf16>;
  static constexpr int kWidth = 8, kWords = 8;
  DType type;

  explicit FRS_DEVICE AnyCodec(DType type) : type(type) {}
  FRS_DEVICE bool wide() const { return type == DType::f32; }
  FRS_DEVICE int quads() const { return wide() ? 2 : 1; }
  FRS_DEVICE int64_t bytes() const { return wide() ? 4 : 2; }
  FRS_DEVICE void neutral(uint32_t* word) const {
    const uint32_t bits = wide() ? 0xC7000000 : type == DType::f16 ? Float16::kNeutral : Bfloat16::kNeutral;
    for (int j = 0; j < 8; ++j) word[j] = bits;
  }
  FRS_DEVICE void load_run(uint32_t* word, const char* p) const {
    load_quad(word, p);
    if (wide()) load_quad(word + 4, p + 16);
  }
  FRS_DEVICE void load_one(uint32_t* word, int j, const char* p) const {
    if (wide()) return F32::load_one(word, j, p);
    Bf16::load_one(word, j, p);
  }
  FRS_DEVICE void unpack(const uint32_t* word, float* v) const {
    if (wide()) {
      for (int j = 0; j < 8; ++j) v[j] = __uint_as_float(word[j]);
    } else if (type == DType::f16) {
      F16::unpack(word, v);
    } else {
      Bf16::unpack(word, v);
    }
  }
  FRS_DEVICE void store_run(char* p, const float* v) const {
    if (wide()) {
      F32::store_run(p, v);
      F32::store_run(p + 16, v + 4);
    } else if (type == DType::f16) {
      F16::store_run(p, v);
    } else {
      Bf16::store_run(p, v);
    }
  }
  FRS_DEVICE void store_one(char* p, float v) const {
    if (wide()) {
      F32::store_one(p, v);
    } else if (type == DType::f16) {
      F16::store_one(p, v);
    } else {
      Bf16::store_one(p, v);
    }
  }
};

}  // namespace frs::cuda
