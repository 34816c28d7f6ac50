"""What is wrong on any machine: packages that collide, memory, the cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.doctor.checks import BUILD_NEEDS, Finding, find_problems
from edgeseg.doctor.machine import Machine
from edgeseg.doctor.packages import installed_packages


def findings(machine: Machine, *packages: str) -> list[Finding]:
    for name in packages:
        (machine.search[0] / f"{name}-1.30.0.dist-info").mkdir()
    return list(find_problems(machine, installed_packages(machine.search)))


def test_a_machine_in_order_has_no_findings(pc: Machine) -> None:
    assert findings(pc) == []
    assert not pc.cache.exists()


def test_both_onnxruntimes_at_once_overwrite_each_other(pc: Machine) -> None:
    (found,) = findings(pc, "onnxruntime", "onnxruntime_gpu")
    assert "overwrite each other's files" in found.what
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found.fix


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime_gpu"])
def test_one_onnxruntime_is_right(pc: Machine, name: str) -> None:
    assert findings(pc, name) == []


def test_torch_needs_torchvision(pc: Machine) -> None:
    (found,) = findings(pc, "torch")
    assert found.fix == 'pip install "edgeseg[train]"'
    assert findings(pc, "torchvision") == []


def test_too_little_memory_for_a_build(pc: Machine) -> None:
    (found,) = findings(replace(pc, free_bytes=BUILD_NEEDS - 1))
    assert found.what.startswith("612 MiB of memory are free")
    assert "at least 613 MiB" in found.what
    assert findings(replace(pc, free_bytes=BUILD_NEEDS)) == []
    assert findings(replace(pc, free_bytes=None)) == []


def test_a_private_cache_is_right(pc: Machine) -> None:
    pc.cache.mkdir(parents=True, mode=0o700)
    assert findings(pc) == []


def test_a_cache_that_others_can_enter(pc: Machine) -> None:
    pc.cache.mkdir(parents=True)
    pc.cache.chmod(0o755)
    (found,) = findings(pc)
    assert "others can enter it (mode 755)" in found.what
    assert found.fix == f"run: chmod 700 {pc.cache}"


def test_a_cache_that_is_a_link(pc: Machine, tmp_path: Path) -> None:
    pc.cache.parent.mkdir(parents=True)
    pc.cache.symlink_to(tmp_path)
    (found,) = findings(pc)
    assert "it is a link" in found.what
    assert "--cache" in found.fix


def test_a_cache_below_a_file_cannot_be_made(pc: Machine) -> None:
    pc.cache.parents[1].parent.mkdir(parents=True, exist_ok=True)
    pc.cache.parents[1].write_text("")
    (found,) = findings(pc)
    assert "cannot be written" in found.what
    assert "XDG_CACHE_HOME" in found.fix


def test_a_cache_that_cannot_be_written(pc: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pc.cache.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: path != pc.cache)  # root may always
    (found,) = findings(pc)
    assert "cannot be written" in found.what
