"""How many CPU threads this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cpu_threads(quota_file: Path = CGROUP_QUOTA) -> int:
    """Return the usable cores: the smaller of CPU affinity and the container's quota, at least 1.

    Runtimes count the host's cores; in a container with a quota that oversubscribes.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no cgroup v2 here: affinity alone decides
    return max(1, cores)
