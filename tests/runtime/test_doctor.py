"""What doctor finds, also on a machine where things are missing."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from types import ModuleType

import numpy as np
import pytest

from edgeseg import __version__, doctor
from edgeseg.sessions import BACKENDS


def versions(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)


def test_it_reports_this_machine() -> None:
    found = doctor.diagnose()
    assert found.edgeseg == __version__
    assert found.packages["numpy"] == np.__version__
    assert set(found.packages) == set(doctor.PACKAGES)
    assert set(found.backends) == set(BACKENDS)
    assert found.backends["ort:cpu"] is None
    assert 1 <= found.cpu_threads <= (os.cpu_count() or 1)


def test_it_survives_json() -> None:
    found = doctor.diagnose().to_dict()
    again = json.loads(json.dumps(found))
    assert again["packages"] == found["packages"]
    assert again["backends"] == found["backends"]


def test_missing_packages_are_none_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {})
    found = doctor.diagnose()
    assert set(found.packages.values()) == {None}
    assert found.warnings == ()


@pytest.mark.parametrize("module", [None, ModuleType("onnxruntime")])
def test_without_a_working_onnxruntime_every_backend_has_a_fix(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    found = doctor.diagnose()
    assert set(found.backends) == set(BACKENDS)
    for backend, problem in found.backends.items():
        extra = "cpu" if backend == "ort:cpu" else "gpu"
        assert problem is not None
        assert f'pip install "edgeseg[{extra}]"' in problem


def test_both_onnxruntimes_at_once_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {"onnxruntime": "1.30", "onnxruntime-gpu": "1.30"})
    (warning,) = doctor.diagnose().warnings
    assert "overwrite each other's files" in warning
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in warning


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_onnxruntime_is_no_warning(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    versions(monkeypatch, {name: "1.30"})
    assert doctor.diagnose().warnings == ()


def test_torch_without_torchvision_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {"torch": "2.11"})
    (warning,) = doctor.diagnose().warnings
    assert 'pip install "edgeseg[train]"' in warning
    versions(monkeypatch, {"torch": "2.11", "torchvision": "0.26"})
    assert doctor.diagnose().warnings == ()


def test_engine_builders_work_or_say_how_to_get_them() -> None:
    builders = doctor.diagnose().builders
    assert set(builders) == {"tensorrt", "tensorrt-rtx"}
    for problem in builders.values():
        assert problem is None or "pip install" in problem
