"""The contract between Python and the kernels: names, codes, limits and the schemas of the operators.

What both sides have to agree on is defined once for Python, here, and once for C++, in
``csrc/include/frs/contract.h``. This module imports nothing else of the package.
"""

from typing import Literal

import torch
from torch import Tensor

# What the public functions take for their scalars and their modes.
Scalar = float | Tensor  # a number or a 0-d tensor
NormalizerName = Literal["mask", "mask_channels", "batch", "numel", "mask_all_levels"]
Normalizer = NormalizerName | float | Tensor
Reduction = Literal["sum", "mean", "none"]
Over = Literal["channels", "locations"]  # what a softmax runs over
Backend = Literal["auto", "native", "triton", "eager"]

# Ways to choose the normalizer Z_l. The position of a name is its code; the last means a number or a
# 0-d tensor that the caller gives.
NORMALIZERS = ("mask", "mask_channels", "batch", "numel", "mask_all_levels", "value")
MASK_SUM_NORMALIZERS = ("mask", "mask_channels", "mask_all_levels")  # those that contain a sum of S
NORMALIZER_EPSILON = 1e-9  # added to Z_l by "mask_channels", as Ultralytics does

# The dtypes of features, logits and masks. The position of a dtype is its code.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

MAX_LEVELS = 16  # FPN levels in one call of a fused kernel
# The entropy is a sum of log(1 + exp(-|s|)). The kernels take one logarithm of a product of this many
# factors: each is at most 2, so that the product stays far below 2^127.
MAX_LOG_FACTORS = 64


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of sums, masks and losses: float64 if any of the tensors is float64, else float32."""
    return torch.float64 if torch.float64 in [t.dtype for t in tensors] else torch.float32


def pending_factor(dtype: torch.dtype) -> bool:
    """Whether gradients of this dtype are stored without their factor scale / Z_l.

    True for float16 only: a gradient of 1e-7 would underflow there before a gradient scaler could multiply
    it. The backward applies the pending factor together with the incoming gradient.
    """
    return dtype == torch.float16


# The arguments of the operator ``loss`` in their order, and their types in a schema. Lists have one entry per
# level, or none where the argument is absent.
LOSS_ARGUMENTS = {
    "student_feats": "Tensor[]",  # x [B, D, *spatial]; without them there is no imitation term
    "teacher_feats": "Tensor[]",  # y, like x
    "student_logits": "Tensor[]",  # s [B, K, *spatial]; without them there is no head term
    "teacher_logits": "Tensor[]",  # T, like s
    "masks": "Tensor[]",  # S [B, *spatial] in the accumulation dtype; without them, the FRS masks of T
    "channel_weights": "Tensor[]",  # c [B, D] of the imitation term, in the accumulation dtype
    "normalizer": "int",  # a code: the position in NORMALIZERS
    # Three numbers, each multiplied by an optional 0-d tensor in the accumulation dtype: a value that lives
    # on the device then needs no synchronisation with the host.
    "normalizer_value": "float",
    "normalizer_tensor": "Tensor?",
    "feat_scale": "float",
    "feat_scale_tensor": "Tensor?",
    "head_scale": "float",
    "head_scale_tensor": "Tensor?",
    "beta": "float",  # exponent of the focal form; 0 for plain cross-entropy
    "feat_grad": "bool",  # whether the gradients in student_feats are wanted
    "head_grad": "bool",  # whether the gradients in student_logits are wanted
    "per_image": "bool",  # whether losses are wanted image by image; all levels then have one B
}
_LOSS_SCHEMA = "({}) -> (Tensor, Tensor, Tensor, Tensor[], Tensor[])".format(
    ", ".join(f"{kind} {name}" for name, kind in LOSS_ARGUMENTS.items())
)

# The arguments of the operator ``kl``, likewise.
KL_ARGUMENTS = {
    "student": "Tensor[]",  # s [B, C, *spatial]
    "teacher": "Tensor[]",  # T, like s
    # w [B, *spatial], or [B, C] for over_locations, in the accumulation dtype; without them, 1
    "weights": "Tensor[]",
    "over_locations": "bool",  # whether a softmax runs over the locations of a channel
    "groups": "int",  # softmaxes over the channels of a location; 1 for over_locations
    "temperature": "float",
    "normalizer": "int",  # the normalizer and the scale as in LOSS_ARGUMENTS
    "normalizer_value": "float",
    "normalizer_tensor": "Tensor?",
    "scale": "float",
    "scale_tensor": "Tensor?",
    "grad": "bool",  # whether the gradients in student are wanted
    "per_image": "bool",  # whether losses are wanted image by image; all levels then have one B
}
_KL_SCHEMA = "({}) -> (Tensor, Tensor, Tensor[])".format(
    ", ".join(f"{kind} {name}" for name, kind in KL_ARGUMENTS.items())
)

# The operators of a fused backend.
#
# mask    Returns the FRS masks [B, *spatial], S = sigmoid(max_k T_k), in the accumulation dtype.
# loss    Returns, scales included: losses [3] = (feature, head, feature + head), or [3, B] for per_image;
#         level_losses [2, levels], the imitation term (row 0) and the head term (row 1) of every level;
#         pending [2, levels], the pending factors of both terms, see pending_factor; and the gradients of the
#         sum of losses[2] in student_feats and in student_logits, each an empty list if not wanted.
# imitation, head
#         The operator loss under the name of the only term that the call has. Selective activation
#         checkpointing can then save the one and recompute the other.
# kl      Returns, scale included: the loss [], or [B] for per_image; pending [levels]; and the gradients of
#         the sum of the loss in student, an empty list if not wanted.
# scale_  grads[i] *= grad_output * pending[i]. grad_output is [], or [B] to scale image by image. The product
#         is computed on the device, and what it would multiply by 1 is neither read nor written.
# scaled  The same in new tensors: a copy and scale_, for every backend.
SCHEMAS = {
    "mask": "(Tensor[] teacher_logits) -> Tensor[]",
    "loss": _LOSS_SCHEMA,
    "imitation": _LOSS_SCHEMA,
    "head": _LOSS_SCHEMA,
    "kl": _KL_SCHEMA,
    "scale_": "(Tensor(a!)[] grads, Tensor grad_output, Tensor pending) -> ()",
    "scaled": "(Tensor[] grads, Tensor grad_output, Tensor pending) -> Tensor[]",
}
