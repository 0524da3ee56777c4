"""The losses of an MMRazor configuration, built by MMEngine's registry and called as MMRazor calls them.

    python examples/mmrazor_losses.py

It needs only mmengine: random tensors stand in for the records of MMRazor's recorders.
"""

import runpy
from pathlib import Path

import torch
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings

SIZES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def recorded() -> dict:
    """A neck's tuple of levels and a head's (class scores, boxes) for 2 images, 9 anchors, 2 classes."""
    return {
        "neck": tuple(torch.randn(2, 256, *size) for size in SIZES),
        "head": tuple([torch.randn(2, channels, *size) for size in SIZES] for channels in (18, 36)),
    }


def main(steps: int = 3) -> None:
    config = runpy.run_path(str(Path(__file__).with_name("mmrazor_retinanet.py")))
    import_modules_from_strings(**config["custom_imports"])
    distiller = config["distiller"]
    torch.manual_seed(0)
    losses = {name: MODELS.build(loss) for name, loss in distiller["distill_losses"].items()}
    student, teacher = recorded(), recorded()
    for step in range(steps):
        for name, mapping in distiller["loss_forward_mappings"].items():
            arguments = {
                keyword: (student if record["from_student"] else teacher)[record["recorder"]]
                for keyword, record in mapping.items()
            }
            losses[name].set_step(step)  # as FRSWarmupHook does before every iteration
            print(f"step {step}: distill.{name} = {losses[name](**arguments).item():.4f}")


if __name__ == "__main__":
    main()
