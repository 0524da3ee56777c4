// What the arguments of the operators `loss` and `kl` have in common: lists of tensors over the levels, the
// terms that they make up, and scalars.
#pragma once

#include <optional>

#include "bind/tensors.h"

namespace frs::bind {

// One list of an operator. `given` is false where the call does not read it, empty or not.
struct List {
  const Tensors& tensors;
  const char* name;
  bool given;
};

// The lists of one term.
struct TermLists {
  List students, teachers, channel_weights;
  const char* name;
  bool wants_grad;
};

void check_level_count(size_t levels);  // that the kernels take as many
void check_length(const List& list, size_t levels);
void check_lengths(const TermLists& term, size_t levels);
TermTypes types_of(const TermLists& term);
void check_precision(const TermLists& term, const TermTypes& types, bool double_precision);

// One term of level `l`, whose batch and locations are known. A gradient that is wanted is added to `grads`.
Term term_of(const TermLists& lists, int l, int64_t batch, int64_t locations, ScalarType accumulation,
             Allocate allocate_grad, Tensors& grads);

// Losses per image need as many images in level `l` as in the first one.
void check_batch(int l, int64_t batch, int64_t batch_of_first);

Normalizer normalizer_from(int64_t code);
Scalar scalar_from(double value, const std::optional<Tensor>& tensor, ScalarType accumulation,
                   const char* name);

}  // namespace frs::bind
