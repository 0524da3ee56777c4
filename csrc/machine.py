"""The cores and the memory that this process may use, in a container too. Standard library only.

A container sees the processors and the memory of its host. Its own share is in the control groups (cgroups)
alone: of version 2, or of version 1 with a folder per controller. `root` is what stands for / in tests.
"""

import math
import os
from pathlib import Path


def cores(root="/"):
    """How many processors this process may keep busy: those it may run on, or a cgroup's quota if less."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([own or 1, *(math.ceil(quota) for quota in _quotas(root))]))


def free_memory(root="/"):
    """The bytes that this process may still take, or None where nothing says so."""
    known = [limit - used for limit, used in _limits(root)]
    for line in _text(Path(root, "proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            known.append(1024 * int(line.split()[1]))
    return min(known, default=None)


def _quotas(root):
    """The processors that each cgroup above this process grants, as numbers with a fraction."""
    for folder in _folders(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")  # version 2
        quota = quota or _text(folder / "cpu.cfs_quota_us").strip()  # version 1
        period = period or _text(folder / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal():  # not "max", and not -1, which are no quota
            yield int(quota) / int(period)


def _limits(root):
    """(limit, bytes in use) of each cgroup above this process. Files that can be dropped are not in use."""
    for folder in _folders(root, "memory"):
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        droppable = 0
        for line in _text(folder / "memory.stat").splitlines():
            name, _, number = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):  # version 1 has both, the total last
                droppable = int(number)
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _text(folder / name).strip()
            if limit.isdecimal():
                yield int(limit), max(0, int(used or 0) - droppable)


def _folders(root, controller):
    """The folders of the cgroups that this process is in for a controller, up to that of the whole tree.

    Inside a container the path may be that on the host, which the container does not see. Its own group is
    then the top of the tree.
    """
    for line in _text(Path(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = Path(root, "sys/fs/cgroup", controller if controllers else "")
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder == top or top in folder.parents)


def _text(file):
    """What a file says, or nothing if it cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""
