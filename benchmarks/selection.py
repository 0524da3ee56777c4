"""The cases and providers of each size of the suite, the most important first, and the time each size has."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.providers import COMPILED, EAGER, FUSED, MAX_AUTOTUNE
from benchmarks.workloads import KL_OPS, LAYOUTS, MODES, Case

SIZES = ("quick", "small", "standard", "full")
# Minutes after which the remaining benchmarks are skipped.
BUDGET = {
    ("cpu", "quick"): 2, ("cpu", "small"): 3.5, ("cpu", "standard"): 25, ("cpu", "full"): 120,
    ("cuda", "quick"): 2.8, ("cuda", "small"): 2.8, ("cuda", "standard"): 14, ("cuda", "full"): 42,
}  # fmt: skip
# The share of each test file in these minutes: a session of a few files gets the sum of theirs.
SHARES = {
    "test_race": 0.42, "test_loss": 0.25, "test_kl": 0.1, "test_step": 0.08, "test_head": 0.05,
    "test_imitation": 0.05, "test_mask": 0.05,
}  # fmt: skip
RESERVED = 0.2  # share of the minutes for the races with a warm malloc, which have to come last
SHORTEST_RACE = 10.0  # seconds of a race on a GPU in which nothing is compiled
SECONDS_PER_CASE = {"quick": 0.2, "small": 0.3, "standard": 2.0, "full": 3.0}  # of timed rounds

RETINANET, GFL, SMALL = "retinanet-800x1344", "gfl-800x1344", "retinanet-256x256"
# The fused backends first: compiling the others must not take the time they need.
_ALL = (*FUSED, *EAGER, *COMPILED, *MAX_AUTOTUNE)
_CPU = (*FUSED, *EAGER, *COMPILED)  # max-autotune changes nothing in these graphs on a CPU
_PLAIN = (*FUSED, *EAGER)
_LEAN = (*FUSED, *EAGER, "compile-best")
_HALF = ("bf16", "fp16")
_OTHERS = ("fcos-800x1344", "rpn-800x1344", "yolo26n-640", "yolo26m-640")
_YOLO = tuple(f"yolo26{scale}-640" for scale in "nsmlx")
_HEADS = ("fcos-800x1344", "gfl-800x1344", "rpn-800x1344", *_YOLO)


@dataclass(frozen=True)
class Plan:
    """Benchmarks of one operation: all combinations of the fields."""

    op: str
    modes: tuple[str, ...]
    workloads: tuple[str, ...]
    batches: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("fp32",)
    layouts: tuple[str, ...] = ("nchw",)
    providers: tuple[str, ...] = _PLAIN

    def cases(self) -> list[Case]:
        axes = (self.modes, self.workloads, self.batches, self.dtypes, self.layouts)
        return [Case(self.op, *values) for values in itertools.product(*axes)]


_BOTH, _FORWARD = ("both",), ("forward",)
_PARTS = [
    Plan("head", _BOTH, (RETINANET,), (1,), ("fp32", "bf16")),
    Plan("imitation", _BOTH, (RETINANET,), (1,), ("fp32", "bf16")),
    Plan("mask", _FORWARD, (RETINANET,), (1,), ("fp32", "bf16")),
]
# The softmax losses, each with what detectors have it on; class logits with one anchor and with nine.
_KL = {"ld": (GFL,), "kd": (GFL, RETINANET), "cwd": (GFL,)}


def _kl(modes, batches=(1,), dtypes=("fp32",), layouts=("nchw",), providers=_PLAIN) -> list[Plan]:
    return [Plan(op, modes, names, batches, dtypes, layouts, providers) for op, names in _KL.items()]


# One image of GFL fits into the caches of a large processor, and four do not.
_SEVERAL = [Plan(op, _BOTH, (GFL,), (4,), layouts=LAYOUTS) for op in KL_OPS]
PLANS = {
    ("cpu", "quick"): [
        Plan("loss", _BOTH, ("tiny",)),
        Plan("mask", _FORWARD, ("tiny",)),
        *(Plan(op, _BOTH, ("tiny",)) for op in KL_OPS),
    ],
    ("cpu", "small"): [
        Plan("loss", MODES, (SMALL,)),
        Plan("loss", _BOTH, (SMALL,), (1,), ("bf16",), ("nhwc",)),
        Plan("loss", _BOTH, ("ragged", "tiny")),
        Plan("loss-masks", _BOTH, (SMALL,)),
        Plan("head", _BOTH, (SMALL,)),
        Plan("imitation", _BOTH, (SMALL,)),
        Plan("mask", _FORWARD, (SMALL,), providers=_LEAN),
        *(Plan(op, _BOTH, (SMALL, "ragged")) for op in KL_OPS),
    ],
    ("cpu", "standard"): [
        Plan("loss", _BOTH, (RETINANET,), (1,), ("fp32", "bf16"), LAYOUTS, _CPU),
        Plan("loss", ("forward", "backward"), (RETINANET,), (1,), ("fp32", "bf16")),
        Plan("loss-masks", _BOTH, (RETINANET,), (1,), ("fp32", "bf16")),
        Plan("loss", _BOTH, (SMALL, "tiny"), providers=_LEAN),
        Plan("loss", _BOTH, (RETINANET,), (2, 4)),
        Plan("loss", _BOTH, _OTHERS),
        *_PARTS,
        Plan("head", _BOTH, (RETINANET,), providers=("compile-best",)),
        Plan("imitation", _BOTH, (RETINANET,), providers=("compile-best",)),
        Plan("mask", _FORWARD, (RETINANET,), providers=("compile-best",)),
        *_kl(_BOTH, layouts=LAYOUTS),
        Plan("ld", _BOTH, (GFL,), (1,), ("bf16",), LAYOUTS),
        *_SEVERAL,
        *_kl(_FORWARD),
    ],
    ("cpu", "full"): [
        Plan("loss", ("both", "forward"), (RETINANET,), (1,), ("fp32", *_HALF), LAYOUTS, _ALL),
        Plan("loss", ("backward",), (RETINANET,), (1,), ("fp32", *_HALF), LAYOUTS, _CPU),
        Plan("loss-masks", ("both", "forward"), (RETINANET,), (1,), ("fp32", *_HALF), LAYOUTS),
        Plan("loss", _BOTH, (SMALL, "ragged", "tiny"), (1,), ("fp32", "bf16"), LAYOUTS, _CPU),
        Plan("loss", _BOTH, (RETINANET,), (2, 8, 16), ("fp32", "bf16"), LAYOUTS),
        Plan("loss", _BOTH, _HEADS, (1,), ("fp32", "bf16")),
        *(Plan(op, ("both", "forward"), (RETINANET,), (1,), ("fp32", *_HALF), LAYOUTS, _CPU)
          for op in ("head", "imitation")),
        Plan("mask", _FORWARD, (RETINANET,), (1,), ("fp32", *_HALF), LAYOUTS, _CPU),
        *_kl(_BOTH, (1,), ("fp32", "bf16"), LAYOUTS, _LEAN),
        *_kl(_FORWARD, (1,), ("fp32", "bf16")),
        *(Plan(op, _BOTH, (SMALL, "ragged", "tiny"), (1,), ("fp32",), LAYOUTS) for op in KL_OPS),
    ],
    ("cuda", "quick"): [
        Plan("loss", _BOTH, (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS, FUSED),
        Plan("loss", _BOTH, (RETINANET,), (16,), ("bf16",)),
        Plan("loss", ("forward", "backward"), (RETINANET,), (16,), ("bf16",), providers=FUSED),
        Plan("loss-masks", _BOTH, (RETINANET,), (16,), ("bf16",), providers=FUSED),
        Plan("loss", _BOTH, (RETINANET,), (1,), ("bf16", "fp32"), providers=FUSED),
        Plan("loss", _BOTH, (RETINANET,), (16,), ("fp16",), providers=FUSED),
        Plan("loss", _BOTH, (RETINANET,), (16,), ("bf16",), providers=COMPILED),
        *(Plan(op, _BOTH, (RETINANET,), (16,), ("bf16",), providers=FUSED) for op in ("head", "imitation")),
        Plan("mask", _FORWARD, (RETINANET,), (16,), ("bf16",), providers=FUSED),
        *_kl(_BOTH, (16,), ("bf16",), providers=FUSED),
    ],
    ("cuda", "small"): [
        Plan("loss", _BOTH, (RETINANET,), (16,), ("bf16",), ("nchw",), _CPU),
        Plan("loss", ("forward", "backward"), (RETINANET,), (16,), ("bf16",)),
        Plan("loss-masks", _BOTH, (RETINANET,), (16,), ("bf16",)),
        Plan("loss", _BOTH, (SMALL, "tiny")),
        Plan("mask", _FORWARD, (RETINANET,), (16,), ("bf16",)),
        *_kl(_BOTH, (16,), ("bf16",)),
    ],
    ("cuda", "standard"): [
        Plan("loss", _BOTH, (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS, _LEAN),
        Plan("loss", ("forward", "backward"), (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS),
        Plan("loss-masks", _BOTH, (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS),
        Plan("loss", _BOTH, (SMALL, "tiny"), providers=_LEAN),
        Plan("loss", _BOTH, (RETINANET,), (1, 2, 8), ("bf16",)),
        Plan("loss", _BOTH, _OTHERS, (16,), ("bf16",)),
        *(Plan(op, ("both", "forward"), (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS)
          for op in ("head", "imitation")),
        Plan("mask", _FORWARD, (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS),
        *_kl(_BOTH, (16,), ("bf16",), LAYOUTS),
        *_kl(_BOTH, (16,), ("fp32",)),
    ],
    ("cuda", "full"): [
        Plan("loss", ("both", "forward"), (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS, _ALL),
        Plan("loss", _BOTH, (RETINANET,), (16,), ("fp16",), LAYOUTS, _ALL),
        Plan("loss", ("backward",), (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS, _LEAN),
        Plan("loss-masks", ("both", "forward"), (RETINANET,), (16,), ("bf16", "fp32", "fp16"), LAYOUTS),
        Plan("loss", _BOTH, (SMALL, "ragged", "tiny"), (1,), ("bf16", "fp32"), LAYOUTS, _LEAN),
        Plan("loss", _BOTH, (RETINANET,), (1, 2, 8), ("bf16", "fp32"), LAYOUTS),
        Plan("loss", _BOTH, _HEADS, (1, 16), ("bf16",), LAYOUTS),
        *(Plan(op, ("both", "forward"), (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS, _LEAN)
          for op in ("head", "imitation")),
        Plan("mask", _FORWARD, (RETINANET,), (16,), ("bf16", "fp32"), LAYOUTS, _LEAN),
        *_kl(_BOTH, (16,), ("bf16", "fp32"), LAYOUTS, _LEAN),
        *_kl(_FORWARD, (16,), ("bf16", "fp32")),
    ],
}  # fmt: skip


def pairs(ops: tuple[str, ...], size: str, device: str) -> list[tuple[Case, str]]:
    """(case, provider) of every benchmark of the operations, each once.

    On a GPU the compiled providers come last: one takes as long as a dozen of the others.
    """
    plans = [plan for plan in PLANS[device, size] if plan.op in ops]
    selected = [(case, name) for plan in plans for case in plan.cases() for name in plan.providers]
    if device == "cuda":
        ranks = {name: rank for rank, names in enumerate((COMPILED, MAX_AUTOTUNE), 1) for name in names}
        selected.sort(key=lambda pair: ranks.get(pair[1], 0))
    return list(dict.fromkeys(selected))


def races(size: str, device: str) -> list[tuple[Case, str]]:
    """(case, allocator) of every race."""
    if device == "cuda":
        return [(case, "default") for case in _gpu_races(size)]
    if size == "quick":
        return [(case, "default") for case in Plan("loss", _BOTH, ("tiny",)).cases()]
    if size == "small":
        warm = Plan("loss", _BOTH, (SMALL,)).cases()
        others = _cases(Plan(op, _BOTH, (SMALL,)) for op in KL_OPS)
    else:
        loss = Plan("loss", _BOTH, (RETINANET,), (1,), ("fp32", "bf16"), LAYOUTS).cases()
        warm = loss + _cases(_kl(_BOTH))
        edges = Plan("ld", _BOTH, (GFL,), (1,), ("bf16",), LAYOUTS)
        forward = Plan("loss", _FORWARD, (RETINANET,))
        others = _cases([forward, *_kl(_BOTH, layouts=LAYOUTS), edges, *_SEVERAL])
    default = [(case, "default") for case in dict.fromkeys(warm + others)]
    return default + [(case, "warm") for case in warm]


def _cases(plans: Iterable[Plan]) -> list[Case]:
    return [case for plan in plans for case in plan.cases()]


def _gpu_races(size: str) -> list[Case]:
    """bfloat16 before float32: it is what GPUs train with, and time may run out before the last races."""
    if size == "small":
        return Plan("loss", _BOTH, (SMALL,), (1,), ("bf16",)).cases()
    if size == "quick":
        return Plan("loss", _BOTH, (RETINANET,), (16, 1), ("bf16",)).cases()
    dtypes = ("bf16", "fp32")
    nchw, nhwc = (Plan("loss", _BOTH, (RETINANET,), (16,), dtypes, (layout,)).cases() for layout in LAYOUTS)
    single = Plan("loss", _BOTH, (RETINANET,), (1,), dtypes).cases()
    forward = Plan("loss", _FORWARD, (RETINANET,), (16,), dtypes[:1]).cases()
    kl = _cases(_kl(_BOTH, (16,), dtypes[:1], LAYOUTS))
    return nchw + nhwc + single + forward + kl


def rivals(size: str, device: str) -> tuple[str, ...]:
    """The providers that race against the fused backends, in the order in which they are prepared."""
    if device == "cpu":
        return EAGER if size in ("quick", "small") else (*EAGER, *reversed(COMPILED))
    if size != "full":  # compiling takes most of a race's time, so only the best one is compiled
        return (*EAGER, "compile-best")
    return (*EAGER, "compile-best-max", "compile-best", "compile-official-max", "compile-official")
