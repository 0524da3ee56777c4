"""The feature loss and the head loss of FRS, with its masks or those of a baseline."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import frs_kernels as frs
from frs_train import distributed
from frs_train.config import DistillConfig
from frs_train.detectors import Compatibility, Detector, Outputs
from frs_train.errors import UserError
from frs_train.training.masks import MASK_SUMS, normalized
from frs_train.training.terms import Term, adapter_channels


class FRSTerms(frs.FRSDistillationLoss):
    """`FRSDistillationLoss` with the options of a run: one call computes both terms.

    Raises:
        UserError: there is nothing that the student could learn, or the adapter does not fit.
    """

    has_masks, has_edges = True, False

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        config: DistillConfig,
        fit: Compatibility,
        warn: Callable[[str], None],
    ):
        use_feats = config.method != "frs-head"
        use_head = config.method in ("frs", "frs-head") and config.head_weight > 0
        if use_head and fit.logit_difference and use_feats:
            warn(f"The head loss is off: {fit.logit_difference}. The feature loss stays.")
        use_head = use_head and fit.logit_difference is None
        if not use_head and not use_feats:
            raise UserError(
                "--method frs-head has nothing to learn from: the classification outputs of teacher and "
                "student do not fit. Use the same detector, anchors and classes, or --method frs-feature."
            )
        # With several processes the masks are divided by the normalizer here.
        divided = distributed.world() > 1 and config.normalizer in MASK_SUMS
        theirs = [teacher.feat_channels[t] for _, t in fit.levels]
        channels = adapter_channels(student, teacher, fit.levels, config) if use_feats else (theirs, theirs)
        super().__init__(
            *channels,
            adapter=config.adapter if use_feats else "identity",
            feat_weight=config.feat_weight,
            head_weight=config.head_weight,
            warmup_iters=config.warmup_iters,
            normalizer=1.0 if divided else config.normalizer,
            backend=config.backend,  # pyright: ignore[reportArgumentType]  # the learner has checked it
        )
        self.use_feats, self.use_head = use_feats, use_head
        self.has_logits = use_head
        self.divided = config.normalizer if divided else None

    def terms(self, student: Outputs, teacher: Outputs, masks: list[Tensor]) -> dict[str, Term]:
        """The terms by name, from the outputs on the shared levels and the masks [B, H, W]."""
        found = self(
            student.feats if self.use_feats else None,
            teacher.feats if self.use_feats else None,
            student_logits=student.cls_logits if self.use_head else None,
            teacher_logits=teacher.cls_logits if self.use_head else None,
            masks=normalized(masks, self.divided) if self.divided else masks,
        )
        terms = {}
        if self.use_feats:
            terms["frs_feature"] = Term(found.feature, found.feature_levels)
        if self.use_head:
            terms["frs_head"] = Term(found.head, found.head_levels)
        return terms
