"""Usable CPU threads: affinity, and the quotas of containers and services."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.cpu import cpu_threads


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),  # one core and a half keeps two threads busy
        ("10000 100000", 1),
        ("6400000 100000", 8),
        ("0 100000", 1),
        ("100000 0", 8),
        ("", 8),
        ("nonsense", 8),
        ("a b", 8),
        ("-1 100000", 8),
    ],
)
def test_the_smaller_of_affinity_and_quota_counts(tmp_path: Path, quota: str, threads: int) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu.max", quota + "\n")
    write(tmp_path, "proc/self/cgroup", "0::/\n")  # as in a container
    assert cpu_threads(tmp_path) == threads


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("service", "slice_", "threads"),
    [("300000 100000", "max 100000", 3), ("max 100000", "400000 100000", 4), ("max 1", "max 1", 8)],
)
def test_the_smallest_quota_from_a_service_up_to_the_top_counts(
    tmp_path: Path, service: str, slice_: str, threads: int
) -> None:
    write(tmp_path, "proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/camera.service\n")
    write(tmp_path, "sys/fs/cgroup/system.slice/camera.service/cpu.max", service)
    write(tmp_path, "sys/fs/cgroup/system.slice/cpu.max", slice_)
    write(tmp_path, "sys/fs/cgroup/other.slice/cpu.max", "100000 100000")
    assert cpu_threads(tmp_path) == threads


@pytest.mark.usefixtures("eight_cores")
def test_a_group_that_the_container_cannot_see_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/docker/0123abcd\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000")
    assert cpu_threads(tmp_path) == 2


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "threads"), [("250000", 3), ("-1", 8), ("", 8)])
def test_control_groups_of_version_1_count(tmp_path: Path, quota: str, threads: int) -> None:
    write(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert cpu_threads(tmp_path) == threads


@pytest.mark.usefixtures("eight_cores")
def test_files_that_are_no_text_are_no_quota(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_bytes(b"\xff\xfe 1")
    assert cpu_threads(tmp_path) == 8


@pytest.mark.usefixtures("eight_cores")
def test_without_control_groups_affinity_decides(tmp_path: Path) -> None:
    assert cpu_threads(tmp_path) == 8


def test_without_affinity_the_cores_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cpu_threads(tmp_path) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_threads(tmp_path) == 1


def test_this_machine_has_between_one_and_all_cores() -> None:
    assert 1 <= cpu_threads() <= (os.cpu_count() or 1)
