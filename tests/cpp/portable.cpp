// The CPU kernels without torch, compared with plain loops in double: a test for machines without Python.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/operators.h"

namespace {

using frs::DType;
#if defined(__aarch64__)
using Half = __fp16;
#else
using Half = _Float16;
#endif

constexpr int64_t kBatch = 2, kLogits = 21, kFeats = 19, kLocations = 24 * 31;

float rounded(float value, DType type) {  // to an element of the type and back
  if (type == DType::f16) return static_cast<float>(static_cast<Half>(value));
  if (type != DType::bf16) return value;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
  std::memcpy(&value, &bits, 4);
  return value;
}

// A tensor [B, C, L] in either layout, and its values by index.
struct Tensor {
  DType type;
  bool channel_major;
  int64_t channels;
  std::vector<char> data;

  Tensor(DType type, bool channel_major, int64_t channels)
      : type(type),
        channel_major(channel_major),
        channels(channels),
        data(kBatch * channels * kLocations * frs::size_of(type)) {}

  int64_t at(int64_t b, int64_t c, int64_t l) const {
    return b * channels * kLocations + (channel_major ? l * channels + c : c * kLocations + l);
  }
  void set(int64_t i, double value) {
    const float f = rounded(static_cast<float>(value), type);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const Half half = static_cast<Half>(f);
    if (type == DType::f64) std::memcpy(&data[8 * i], &value, 8);
    if (type == DType::f32) std::memcpy(&data[4 * i], &f, 4);
    if (type == DType::f16) std::memcpy(&data[2 * i], &half, 2);
    if (type == DType::bf16) bits >>= 16, std::memcpy(&data[2 * i], &bits, 2);
  }
  double get(int64_t i) const {
    double d = 0.0;
    float f = 0.0f;
    uint32_t bits = 0;
    Half half;
    if (type == DType::f64) return std::memcpy(&d, &data[8 * i], 8), d;
    if (type == DType::f32) return std::memcpy(&f, &data[4 * i], 4), f;
    if (type == DType::f16) return std::memcpy(&half, &data[2 * i], 2), static_cast<double>(half);
    std::memcpy(&bits, &data[2 * i], 2);
    bits <<= 16;
    return std::memcpy(&f, &bits, 4), f;
  }
  frs::TensorView view() {
    return {data.data(), channels * kLocations, channel_major ? 1 : kLocations, channel_major ? channels : 1};
  }
};

uint32_t state = 1;
double normal() {  // roughly: the sum of four uniform numbers
  double sum = -2.0;
  for (int i = 0; i < 4; ++i) sum += (state = state * 1664525u + 1013904223u) / 4294967296.0;
  return 1.7 * sum;
}
Tensor filled(DType type, bool channel_major, int64_t channels, double spread) {
  Tensor t(type, channel_major, channels);
  for (int64_t i = 0; i < kBatch * channels * kLocations; ++i) t.set(i, spread * normal());
  return t;
}

double larger(double a, double b) { return std::isnan(a) || b <= a ? a : b; }  // keeps NaN, unlike fmax

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

void run(int, void (*body)(void*), void* ctx) { body(ctx); }

// The largest error of losses and gradients, relative to the largest value of each.
double worst_error(DType type, bool channel_major) {
  Tensor x = filled(type, channel_major, kFeats, 1), y = filled(type, channel_major, kFeats, 1);
  Tensor s = filled(type, channel_major, kLogits, 4), t = filled(type, channel_major, kLogits, 4);
  Tensor dx(type, channel_major, kFeats), ds(type, channel_major, kLogits);
  std::vector<double> masks(kBatch * kLocations), losses(3 * kBatch), level_losses(2), pending(2);
  frs::LossParams p;
  p.num_levels = 1;
  p.levels[0] = {kBatch,
                 kLocations,
                 masks.data(),
                 {x.view(), y.view(), dx.view(), kFeats},
                 {s.view(), t.view(), ds.view(), kLogits}};
  p.normalizer = frs::Normalizer::value;
  p.mode = frs::Mode::mask_first;
  p.per_image = true;
  p.losses = losses.data();
  p.level_losses = level_losses.data();
  p.pending = pending.data();
  frs::cpu::loss(p, {{type, type}, {type, type}}, {3, run});
  auto result = [&](const std::vector<double>& results, int64_t i) {
    if (type == DType::f64) return results[i];
    return static_cast<double>(reinterpret_cast<const float*>(results.data())[i]);  // the accumulation dtype
  };

  double features = 0, heads = 0, largest_dx = 0, largest_ds = 0, error_dx = 0, error_ds = 0;
  double error_losses = 0;
  auto compare = [&](double loss, double exact) {
    error_losses = larger(error_losses, std::fabs(loss / exact - 1));
  };
  for (int64_t b = 0; b < kBatch; ++b) {
    double feature = 0, head = 0;
    for (int64_t l = 0; l < kLocations; ++l) {
      double mask = 0;
      for (int64_t k = 0; k < kLogits; ++k) mask = std::fmax(mask, sigmoid(t.get(t.at(b, k, l))));
      for (int64_t k = 0; k < kLogits; ++k) {
        const double v = s.get(s.at(b, k, l)), q = sigmoid(t.get(t.at(b, k, l)));
        head += mask * (std::fmax(v, 0) + std::log1p(std::exp(-std::fabs(v))) - q * v);
        const double exact = mask * (sigmoid(v) - q);
        largest_ds = std::fmax(largest_ds, std::fabs(exact));
        error_ds = larger(error_ds, std::fabs(ds.get(ds.at(b, k, l)) - exact));
      }
      for (int64_t d = 0; d < kFeats; ++d) {
        const double difference = x.get(x.at(b, d, l)) - y.get(y.at(b, d, l)), exact = 2 * mask * difference;
        feature += mask * difference * difference;
        largest_dx = std::fmax(largest_dx, std::fabs(exact));
        error_dx = larger(error_dx, std::fabs(dx.get(dx.at(b, d, l)) - exact));
      }
    }
    compare(result(losses, b), feature);
    compare(result(losses, kBatch + b), head);
    compare(result(losses, 2 * kBatch + b), feature + head);
    features += feature;
    heads += head;
  }
  compare(result(level_losses, 0), features);
  compare(result(level_losses, 1), heads);
  return larger(error_losses, larger(error_dx / largest_dx, error_ds / largest_ds));
}

}  // namespace

int main() {
  const struct {
    DType type;
    double allowed;
  } cases[] = {{DType::f64, 1e-12}, {DType::f32, 1e-6}, {DType::f16, 1e-3}, {DType::bf16, 4e-3}};
  int failures = 0;
  for (const auto& each : cases)
    for (bool channel_major : {false, true}) {
      const double error = worst_error(each.type, channel_major);
      const bool good = error <= each.allowed;  // false for NaN
      std::printf("type %d, channel-major %d: error %.2e, allowed %.0e%s\n", static_cast<int>(each.type),
                  channel_major, error, each.allowed, good ? "" : " FAILED");
      failures += !good;
    }
  return failures;
}
