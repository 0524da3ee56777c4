"""Training, evaluation and pictures on photographs: BCCD, blood cells (docs/results/bccd.md)."""

import json
from pathlib import Path

import pytest

from frs_train.cli.main import main
from frs_train.training.run_files import read_metrics

ROOT = Path(__file__).parents[2]
BCCD = next((p for p in (ROOT / "data/bccd", ROOT.parent / "shared/data/bccd") if p.is_dir()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BCCD is None, reason="needs the BCCD photographs in data/bccd"),
]

MODEL = "--detector fcos --backbone-norm group --fpn-width 16 --head-convs 1 --min-size 96 --device cpu"
SCHEDULE = (
    "--batch-size 8 --optimizer adamw --lr 4e-3 --lr-warmup 5 --clip 10 --workers 1 --threads 1 --log-every 1"
)


def run(command: str, out: Path, options: str) -> list[dict]:
    data = (
        f"--train-annotations {BCCD}/train.json --train-images {BCCD}/images "
        f"--val-annotations {BCCD}/val.json --val-images {BCCD}/images"
    )
    assert main(f"{command} {data} {MODEL} {SCHEDULE} {options} --out {out}".split()) == 0
    return [line["losses"] for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, training_seed) -> tuple[Path, list[dict]]:
    """A folder with a teacher and a student, and the student's losses."""
    folder = tmp_path_factory.mktemp("bccd")
    seed = f"--seed {training_seed}"
    run("train", folder / "teacher", f"--backbone resnet18 --backbone-width 0.25 --iterations 60 {seed}")
    student = run(
        "distill",
        folder / "student",
        f"--backbone resnet10 --backbone-width 0.25 --iterations 120 --teacher {folder}/teacher "
        f"--feat-weight 0.05 --head-weight 0.1 --warmup-iters 1 {seed}",
    )
    return folder, student


@pytest.mark.parametrize("name", ["frs_feature", "frs_head", "classification", "bbox_regression"])
def test_every_loss_decreases(runs, name, bounded):
    losses = [found[name] for found in runs[1]]
    bounded("fall of the loss", 1 - sum(losses[-5:]) / sum(losses[1:6]), least=0.05)


def test_cells_are_detected(runs, capsys, bounded):
    assert main(f"eval {runs[0]}/student --annotations {BCCD}/test.json --images {BCCD}/images".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["classes"]) == {"RBC", "WBC", "Platelets"}
    bounded("AP50", found["AP50"], least=0.01)  # an untrained detector has 0


def test_masks_of_a_photograph_are_drawn(runs, tmp_path):
    files = f"--annotations {BCCD}/test.json --images {BCCD}/images --device cpu --limit 1"
    assert main(f"visualize {runs[0]}/teacher {files} --out {tmp_path}".split()) == 0
    (picture,) = tmp_path.glob("*.png")
    assert picture.stat().st_size > 10_000
