// The operators of a library, implemented in the namespace that Python names. A process may hold several
// copies of the package, with a namespace each, and they may share this library: a cache keeps equal files
// once.
#pragma once

#include <torch/csrc/stable/library.h>

#include <map>
#include <mutex>
#include <string>

namespace frs::bind {

// `kl` is nullptr for a library that has no kernels of it.
template <auto mask, auto loss, auto kl, auto scale>
void register_operators(const char* name_space, const char* dispatch_key) {
  using torch::stable::detail::StableLibrary;
  static std::mutex mutex;
  static std::map<std::string, StableLibrary> registered;  // each ends its registration when it is destroyed
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [entry, is_new] = registered.try_emplace(name_space, StableLibrary::Kind::IMPL, name_space,
                                                      dispatch_key, __FILE__, __LINE__);
  if (!is_new) return;
  StableLibrary& library = entry->second;
  library.impl("mask", TORCH_BOX(mask));
  for (const char* name : {"loss", "imitation", "head"}) library.impl(name, TORCH_BOX(loss));
  if constexpr (kl != nullptr) library.impl("kl", TORCH_BOX(kl));
  library.impl("scale_", TORCH_BOX(scale));
}

}  // namespace frs::bind
