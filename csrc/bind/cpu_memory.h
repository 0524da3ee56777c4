// Memory for gradients on the CPU. The first touch of fresh pages is the largest single cost of a step: more
// than reading all inputs. So large gradients lie on huge pages, and the pages of one step are kept for the
// next.
#pragma once

#include "tensors.h"

namespace frs::bind {

// Call once before the gradients of a call of `loss` are allocated: what is kept afterwards is at most these.
void begin_gradients();

// As empty_strided, for a gradient. A tensor below kPooledBytes, or in a torch without torch_from_blob
// (2.10), is torch's own; the latter is at least advised to use huge pages.
Tensor empty_gradient(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                      const Tensor& like);

}  // namespace frs::bind
