"""The machine's memory bandwidth, measured in the same run as the results that are compared with it."""

import ctypes
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.timers import clock, timed

BUFFER = {"cpu": 256 << 20, "cuda": 1 << 30}  # bytes: much larger than any cache
_ROUNDS = 9


class Copier:
    """Copies a buffer by the faster one of torch's copy and the C library's memcpy.

    Attributes:
        bytes_moved: bytes read plus bytes written by one copy.
        gbps: median GB/s of each kind of copy, of reading and of writing.
        best: GB/s of the faster copy.
        ways: the kinds of copy: "copy" is torch's, with plain stores on a CPU; there, "memcpy" is the C
            library's, with non-temporal ones.
        run: the faster copy.
    """

    def __init__(self, device: str):
        elements = BUFFER[device] // 4
        self._source = torch.ones(elements, device=device)
        self._target = torch.zeros(elements, device=device)
        self._workers = ThreadPoolExecutor(torch.get_num_threads())
        self.bytes_moved = 2 * BUFFER[device]
        self.ways = {"copy": self._by_torch}
        if device == "cpu":
            self.ways["memcpy"] = self._by_libc
        now = clock(device)
        self.gbps = {name: self._rate(now, way, self.bytes_moved) for name, way in self.ways.items()}
        self.run = self.ways[max(self.gbps, key=self.gbps.get)]
        self.best = max(self.gbps.values())
        self.gbps["read"] = self._rate(now, self._source.sum, BUFFER[device])
        self.gbps["write"] = self._rate(now, lambda: self._target.fill_(1.0), BUFFER[device])

    def _rate(self, now: Callable, way: Callable, moved: int) -> float:
        way()
        return moved / statistics.median(timed(now, way) for _ in range(_ROUNDS)) / 1e9

    def _by_torch(self) -> None:
        self._target.copy_(self._source)

    def _by_libc(self) -> None:
        """memcpy in all threads: it uses non-temporal stores, which torch's copy does not."""
        memcpy = ctypes.CDLL(None).memcpy
        memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        threads = torch.get_num_threads()
        part = BUFFER["cpu"] // threads
        starts = [index * part for index in range(threads)]
        target, source = self._target.data_ptr(), self._source.data_ptr()
        jobs = [self._workers.submit(memcpy, target + s, source + s, part) for s in starts]
        for job in jobs:
            job.result()


def cache_bytes(device: str) -> int:
    """The size of the last-level cache."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index3/size") as file:
            return int(file.read().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return 64 << 20


def flusher(device: str) -> Callable:
    """A function that evicts the inputs from the last-level cache: it writes a buffer of twice its size."""
    buffer = torch.empty(2 * cache_bytes(device), dtype=torch.uint8, device=device)
    return lambda: buffer.fill_(1)
