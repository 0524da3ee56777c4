// Which instance of a kernel a call needs, and its launch. Host code.
#pragma once

#include "codec.cuh"
#include "head.cuh"
#include "operators.h"

namespace frs::cuda {

template <class Table>
cudaError_t launch(void (*kernel)(Table), dim3 blocks, const Table& table, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(tiles::kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, table);
}

template <class T>
struct Type {
  using type = T;
};

// call(Type<the codec of this dtype>())
template <class Call>
cudaError_t with_codec(DType type, const Call& call) {
  switch (type) {
    case DType::f32:
      return call(Type<Codec<DType::f32>>());
    case DType::bf16:
      return call(Type<Codec<DType::bf16>>());
    case DType::f16:
      return call(Type<Codec<DType::f16>>());
    default:
      return call(Type<Codec<DType::f64>>());
  }
}

// call(Type<codec>(), Type<element loss of the head term>()). Only float64 and AnyCodec have a quality-focal
// form: choose_codec picks no other codec for it. Without a head term, `focal` may be set with any codec.
template <class Call>
cudaError_t with_codec_and_head(CodecId codec, bool focal, const Call& call) {
  using F64 = Codec<DType::f64>;
  if (codec == CodecId::any) {
    return focal ? call(Type<AnyCodec>(), Type<FocalHead<float>>())
                 : call(Type<AnyCodec>(), Type<Head<float>>());
  }
  if (focal && codec == CodecId::f64) return call(Type<F64>(), Type<FocalHead<double>>());
  return with_codec(static_cast<DType>(codec), [&](auto chosen) {
    using C = typename decltype(chosen)::type;
    return call(chosen, Type<Head<typename C::Acc>>());
  });
}

}  // namespace frs::cuda
