"""Usable CPU threads: affinity and container quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.cpu import cpu_threads


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


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
    ],
)
def test_the_smaller_of_affinity_and_quota_counts(tmp_path: Path, quota: str, threads: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert cpu_threads(file) == threads


@pytest.mark.usefixtures("eight_cores")
def test_without_a_quota_file_affinity_decides(tmp_path: Path) -> None:
    assert cpu_threads(tmp_path / "missing") == 8


def test_without_affinity_the_cores_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cpu_threads(tmp_path / "missing") == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_threads(tmp_path / "missing") == 1


def test_this_machine_has_between_one_and_all_cores() -> None:
    assert 1 <= cpu_threads() <= (os.cpu_count() or 1)
