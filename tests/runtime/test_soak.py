"""A thousand pictures of all sizes: neither memory nor files nor threads grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RUNS = 1000
PER_RUN = 1024  # bytes; 1 MB per 1,000 runs

# Counts after each tenth of the runs. The control keeps what a run returned.
CHILD = """
import json, os, re, sys
import numpy as np
from edgeseg import Segmenter

bundle, runs, leaks = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "leak"
rng, kept, counts = np.random.default_rng(0), [], []
segmenter = Segmenter.load(bundle, "ort:cpu", "int8-cpu")
for run in range(runs):
    height, width = rng.integers(1, 200, 2)
    picture = np.full((height, width, 3), run % 256, np.uint8)
    found = segmenter.batch([picture] * (1 + run % 3))
    if leaks:
        kept.append(np.ones(8192, np.uint8))
    if run % (runs // 10) == 0:
        status = open("/proc/self/status").read()
        resident = int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) * 1024
        threads = int(re.search(r"Threads:\\s+(\\d+)", status)[1])
        counts.append((resident, threads, len(os.listdir("/proc/self/fd"))))
print(json.dumps(counts))
"""


def counts(bundle: Path, mode: str) -> list[list[int]]:
    command = [sys.executable, "-c", CHILD, str(bundle), str(RUNS), mode]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    found: list[list[int]] = json.loads(done.stdout)
    return found


def growth(found: list[list[int]]) -> float:
    """Return bytes per run from the middle on; what is warm by then does not count."""
    middle = len(found) // 2
    resident = [row[0] for row in found[middle:]]
    return (resident[-1] - resident[0]) / (RUNS * (len(resident) - 1) / len(found))


def test_a_thousand_runs_leave_nothing_behind(tiny_logits: Path) -> None:
    found = counts(tiny_logits, "keep")
    assert growth(found) < PER_RUN
    assert len({tuple(row[1:]) for row in found[1:]}) == 1, "threads or open files changed"


def test_the_check_sees_a_leak_of_eight_kilobytes_per_run(tiny_logits: Path) -> None:
    assert growth(counts(tiny_logits, "leak")) > 4 * PER_RUN
