"""Fixtures of the sessions' tests: an opened bundle, and machines that have what this one lacks."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseg.bundle import Bundle
from edgeseg.sessions.ort import engines, library


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def opened(tiny_bundle: Path) -> Bundle:
    """The committed bundle with class maps."""
    return Bundle.open(tiny_bundle)


@pytest.fixture
def logits(tiny_logits: Path) -> Bundle:
    """The committed bundle with class maps and logits, of any size."""
    return Bundle.open(tiny_logits)


@pytest.fixture(scope="session")
def fake_onnxruntime() -> Any:
    """The module with the double of onnxruntime-gpu."""
    return _module("fake_onnxruntime")


@pytest.fixture
def pretend(
    fake_onnxruntime: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    """Put an onnxruntime with other providers in place, and a GPU; return what the double saw."""
    load = ctypes.CDLL
    tensorrt = SimpleNamespace(getInferLibVersion=lambda: 101600)

    def library_or_double(name: str | None, **options: Any) -> Any:
        return tensorrt if name and name.startswith("libnv") else load(name, **options)

    def install(available: list[str], **claims: Any) -> Any:
        machine = fake_onnxruntime.Machine(available, **claims)
        monkeypatch.setitem(sys.modules, "onnxruntime", fake_onnxruntime.machine(machine))
        monkeypatch.setattr(library, "open_driver", lambda: object())
        monkeypatch.setattr(engines, "open_driver", lambda: None)
        monkeypatch.setattr(ctypes, "CDLL", library_or_double)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return machine

    return install


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Any]:
    """Run Python code in a process of its own and return the JSON on its last line.

    The process has an empty home, and sees GPUs where there are any.
    """

    def run(code: str, *arguments: object, seconds: float = 120) -> Any:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        hidden = ("CUDA_VISIBLE_DEVICES", "ORT_DISABLE_TELEMETRY")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
        words = [sys.executable, "-c", code, *(str(argument) for argument in arguments)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment, timeout=seconds
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
