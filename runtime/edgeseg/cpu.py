"""How many CPU threads this process may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Where the kernel shows control groups, below the root: version 2, then version 1's for CPUs.
_GROUPS = "sys/fs/cgroup"
_GROUPS_V1 = "sys/fs/cgroup/cpu"


def cpu_threads(root: Path = Path("/")) -> int:
    """Return the usable cores: the smallest of CPU affinity and all quotas, at least 1.

    A quota is a container's, or that of a systemd service (``CPUQuota=``). Runtimes count the
    host's cores; under a quota that oversubscribes.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """Yield the cores that each control group of this process may use, from its own to the top."""
    own = _own_group(root)
    for group in (own, *own.parents):
        quota, _, period = _read(root / _GROUPS / group / "cpu.max").partition(" ")
        yield from _cores(quota, period)
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    yield from _cores(*(_read(root / _GROUPS_V1 / name) for name in names))


def _own_group(root: Path) -> PurePosixPath:
    """Return this process's group of version 2, relative; a container sees itself as the top."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            return PurePosixPath(line.removeprefix("0::/"))
    return PurePosixPath()


def _cores(quota: str, period: str) -> Iterator[int]:
    """Yield quota / period, both in microseconds, rounded up; nothing without a quota."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield math.ceil(int(quota) / int(period))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):  # no such group here, or no text
        return ""
