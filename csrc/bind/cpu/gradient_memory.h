// Memory for gradients on the CPU. The first write to fresh pages is the most expensive part of a training
// step: it takes longer than reading all inputs. Large gradients therefore use huge pages, and the pages of
// one step are kept for the next.
#pragma once

#include "bind/tensors.h"

namespace frs::bind {

// Call this once per call of `loss` or `kl`, before its gradients are allocated. The memory kept afterwards
// is at most that of these gradients.
void begin_gradients();

// As empty_strided, for a gradient. Tensors below kPooledBytes come from torch's allocator. So do all tensors
// in torch 2.10, which has no torch_from_blob; there the kernel is advised to back large ones with huge
// pages.
Tensor empty_gradient(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                      const Tensor& like);

}  // namespace frs::bind
