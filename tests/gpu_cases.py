"""Inputs and calls that the GPU tests of several backends share."""

import torch
from cases import LONG_SIZES, Target, compare, random_masks
from loss_cases import WRT, arguments

import frs_kernels as frs

RETINANET = (
    (100, 168),
    (50, 84),
    (25, 42),
    (13, 21),
    (7, 11),
)  # FPN levels of 800 x 1344 pixels


def run_every_kernel(target: Target, dtype, layout):
    """Runs mask, loss and single pass, given masks, the focal form, losses per image and scaling.

    Returns the ragged levels.
    """
    base = arguments(24, 24, sizes=LONG_SIZES, dtype=dtype, layout=layout, device="cuda")
    compare(frs.frs_loss, target, base, WRT, upstream=0.7)
    compare(frs.frs_loss, target, base, WRT, upstream=0.7, normalizer="batch")
    compare(frs.frs_loss, target, base, ())
    compare(frs.frs_loss, target, base, WRT, masks=random_masks(sizes=LONG_SIZES, device="cuda"))
    head = {name: base[name] for name in ("student_logits", "teacher_logits")}
    mask = random_masks(sizes=LONG_SIZES, device="cuda")
    compare(frs.weighted_bce, target, head, ("student_logits",), masks=mask, beta=2.0)
    images = torch.tensor([0.7, 1.0], device="cuda")
    for wrt in (("student_logits",), ()):
        compare(frs.weighted_bce, target, head, wrt, upstream=images, masks=mask, reduction="none")
    return base


def captured(step):
    """A CUDA graph of ``step``, and the results of ``step`` that its replays overwrite.

    Two runs on another stream come first: a kernel is compiled and loaded when it runs for the first time.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


def results_in_streams(calls, rounds=20):
    """The results of every call, each made ``rounds`` times in a stream of its own beside the others."""
    streams = [torch.cuda.Stream() for _ in calls]
    results = [[] for _ in calls]
    torch.cuda.synchronize()
    for _ in range(rounds):
        for call, stream, own in zip(calls, streams, results, strict=True):
            with torch.cuda.stream(stream):
                own.append(call())
    torch.cuda.synchronize()
    return results
