"""Loader processes: their batches, their end, and the memory that they share."""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import programs
import pytest
import torch
from coco_files import Images
from tiny_runs import data_of
from torch.utils.data._utils.pin_memory import pin_memory

from frs_train.data import loader
from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection, augmentation
from frs_train.data.loader import collate, loaded, to_device
from frs_train.errors import UserError
from frs_train.interrupt import SIGNALS

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_is_the_same_with_any_number_of_workers(digits, workers):
    data = data_of(digits)
    dataset = CocoDetection(read_coco(data.train_annotations), data.train_images, augmentation(data))
    batches = [[(0, 11), (1, 12)], [(2, 13), (0, 14)]]
    expected = [[dataset[item] for item in batch] for batch in batches]
    torch.manual_seed(99)
    with loaded(dataset, batches, workers, CPU) as found:
        for batch, wanted in zip(found, expected, strict=True):
            images, targets = to_device(batch, CPU)
            for image, target, (raw, boxes) in zip(images, targets, wanted, strict=True):
                assert torch.equal(image, raw.float() / 255) and torch.equal(target["boxes"], boxes["boxes"])


def test_loaders_end_if_the_reader_raises(digits):
    data = data_of(digits)
    dataset = CocoDetection(read_coco(data.train_annotations), data.train_images)
    with pytest.raises(ZeroDivisionError) as error, loaded(dataset, [[(0, None)]] * 9, 2, CPU) as batches:
        next(batches)
        raise ZeroDivisionError
    assert error and not multiprocessing.active_children()


def test_batches_are_sent_without_shared_memory():
    """torch sends a tensor to another process as a file in /dev/shm; a NumPy array is sent as bytes."""
    boxes, image = torch.rand(2, 4), torch.randint(0, 255, (3, 5, 7), dtype=torch.uint8)
    sent = ForkingPickler.dumps(collate([(image, {"boxes": boxes, "image_id": torch.tensor(3)})]))
    ((found, target),) = pickle.loads(sent)
    assert torch.equal(found, image) and torch.equal(target["boxes"], boxes) and target["image_id"] == 3
    assert not found.is_shared() and len(sent) > image.nbytes + boxes.nbytes


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root")
def test_loading_works_with_little_shared_memory():
    """/dev/shm has 256 KiB: too little for an image, enough for the semaphores of the queues."""
    mount = "mount -t tmpfs -o size=256k none /dev/shm || exit 77; "
    command = ["unshare", "-m", "sh", "-c", mount + 'exec "$@"', "sh"]
    done = subprocess.run(
        [*command, *programs.command("load_batches.py", "count")], env=programs.environment(),
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mount: {done.stderr.strip()}")
    assert done.stdout.split() == ["80"], done.stderr


def test_batch_in_pinned_memory_stays_a_batch(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: tensor + 1)
    batch = collate([(torch.zeros(3, 2, 2), {"boxes": torch.zeros(1, 4)})])
    ((image, target),) = pin_memory(batch)
    assert image.unique().tolist() == target["boxes"].unique().tolist() == [1]


class Alarm(Exception):
    """Raised by a signal's handler."""


@contextlib.contextmanager
def alarm(seconds):
    def handler(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signal_interrupts_the_wait_for_a_stuck_loader(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    batches = [[(i, None)] for i in range(20)]
    with pytest.raises(Alarm), loaded(Images(stuck=(3, 4)), batches, 2, CPU) as found, alarm(1):
        for _ in found:
            pass
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", SIGNALS)
def test_loaders_ignore_signals_from_the_start(monkeypatch, number):
    start = loader._start_worker

    def interrupted(worker):
        os.kill(os.getpid(), number)
        start(worker)

    monkeypatch.setattr(loader, "_start_worker", interrupted)
    with loaded(Images(), [[(i, None)] for i in range(4)], 2, CPU) as batches:
        assert len(list(batches)) == 4


def test_death_of_a_loader_is_reported():
    with pytest.raises(UserError, match="loader process has died.*--workers"):
        with loaded(Images(stuck=(0,)), [[(0, None)]] * 2, 1, CPU) as batches:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            next(batches)
    assert not multiprocessing.active_children()


def test_loaders_end_when_the_training_is_killed(tmp_path):
    """Each loader waits to send more than fits into a pipe, but the reader is gone."""
    # A file, because loaders that do not end would keep a pipe open.
    with open(tmp_path / "pids", "wb") as file:
        command = programs.command("load_batches.py", "die")
        subprocess.run(command, env=programs.environment(), stdout=file, stderr=subprocess.DEVNULL)
    loaders = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(loaders) == 2
    deadline = time.monotonic() + 30
    while any(map(running, loaders)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(pid: int) -> bool:
    try:
        # Empty for a process that has ended but was not waited for.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the kernel does not report it")
def test_loaders_share_the_annotations_with_the_parent(tmp_path):
    """Python objects would be copied page by page, because reading one writes its reference count."""
    assert float(programs.output("loader_memory.py", tmp_path)) < 4  # MiB
