"""The contract between Python and the kernels: names, codes, limits and the schemas of the operators.

Whatever two sides have to agree on stands here once for Python, and once for C++ in
``csrc/include/frs/contract.h``. This module imports nothing else of the package.
"""

import torch
from torch import Tensor

# Ways to choose the normalizer Z_l. The position of a name is its code; the last stands for a number or a
# 0-d tensor that the caller gives.
NORMALIZERS = ("mask", "mask_channels", "batch", "numel", "value")
NORMALIZER_EPSILON = 1e-9  # added to Z_l by "mask_channels", as Ultralytics does

# The dtypes of features, logits and masks. The position of a dtype is its code.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

MAX_LEVELS = 16  # FPN levels in one call of a fused kernel
# The entropy is a sum of log(1 + exp(-|s|)). The kernels take one logarithm of a product of this many
# factors: each is at most 2, so that the product stays far below 2^127.
MAX_LOG_FACTORS = 64


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of sums, masks and losses: float64 if any of the tensors is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def pending_factor(dtype: torch.dtype) -> bool:
    """Whether gradients of this dtype are stored without their factor scale / Z_l.

    True for float16 only: a gradient of 1e-7 would underflow there before a gradient scaler could multiply
    it. The backward applies the pending factor together with the incoming gradient.
    """
    return dtype == torch.float16


# The operators of a fused backend. Lists have one entry per level and are empty where they are absent.
#
# mask    The FRS masks [B, *spatial], S = sigmoid(max_k T_k), in the accumulation dtype.
# loss    masks: [B, *spatial] in the accumulation dtype, or empty: the FRS masks of teacher_logits.
#         channel_weights: [B, D] of the imitation term.
#         normalizer: a code, see NORMALIZERS. Each of normalizer_value, feat_scale and head_scale is a number
#         times an optional 0-d tensor in the accumulation dtype, so that a value on the device costs no sync.
#         feat_grad, head_grad: whether the gradients of the two terms are wanted.
#         Returns losses [3] = (feature, head, feature + head), scales included; pending [2, levels], the
#         pending factors of the imitation term (row 0) and of the head term (row 1), see pending_factor; and
#         the gradients of losses[2] in student_feats and in student_logits.
# scale_  grads[i] *= grad_output * pending[i]. The product is computed on the device, and a tensor for which
#         it is 1 is neither read nor written.
# scaled  The same in new tensors: a copy and scale_, for every backend.
SCHEMAS = {
    "mask": "(Tensor[] teacher_logits) -> Tensor[]",
    "loss": (
        "(Tensor[] student_feats, Tensor[] teacher_feats, Tensor[] student_logits, Tensor[] teacher_logits,"
        " Tensor[] masks, Tensor[] channel_weights,"
        " int normalizer, float normalizer_value, Tensor? normalizer_tensor,"
        " float feat_scale, Tensor? feat_scale_tensor, float head_scale, Tensor? head_scale_tensor,"
        " float beta, bool feat_grad, bool head_grad) -> (Tensor, Tensor, Tensor[], Tensor[])"
    ),
    "scale_": "(Tensor(a!)[] grads, Tensor grad_output, Tensor pending) -> ()",
    "scaled": "(Tensor[] grads, Tensor grad_output, Tensor pending) -> Tensor[]",
}
