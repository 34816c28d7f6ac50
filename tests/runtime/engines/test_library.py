from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeseg.engines.library import adopt, load
from edgeseg.engines.log import KEPT_LINES, Log, failure, new_logger
from edgeseg.errors import ArtifactError, DeviceError, ResourceError


def module(version: str) -> Any:
    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    return SimpleNamespace(__version__=version, ILogger=ILogger)


@pytest.fixture(autouse=True)
def forget() -> Any:
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_the_supported_tensorrts_are_taken(version: str) -> None:
    library = adopt("tensorrt", module(version))
    assert library.title == f"TensorRT {version}"


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0", "unknown"])
def test_others_are_refused_with_what_is_expected(version: str) -> None:
    with pytest.raises(DeviceError, match=r"expected at least 10\.3 and less than 12"):
        adopt("tensorrt", module(version))


def test_a_missing_tensorrt_names_jetpack_and_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match=r"python3-libnvinfer.*edgeseg\[tensorrt\]"):
        load("tensorrt")


def test_a_tensorrt_whose_libraries_are_missing_is_not_usable(monkeypatch) -> None:
    import importlib

    def fail(name: str) -> ModuleType:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(DeviceError, match=r"libnvinfer\.so\.10"):
        load("tensorrt")


def test_a_missing_tensorrt_rtx_names_its_extra(monkeypatch) -> None:
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DeviceError, match=r"edgeseg\[tensorrt-rtx\]"):
        load("tensorrt-rtx")


def test_a_process_has_one_library_and_one_logger(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module("10.3.0"))
    assert load("tensorrt") is load("tensorrt")


def test_the_logger_keeps_errors_and_warnings_in_order() -> None:
    trt, log = module("10.3.0"), Log()
    logger = new_logger(trt, log)
    for severity, text in [(4, "chatter"), (2, "hm"), (1, "bad\n  thing"), (0, "worse"), (2, "hm")]:
        logger.log(severity, text)
    assert log.errors == ["bad thing", "worse"]
    assert log.warnings == ["hm"]
    log.clear()
    assert log.errors == log.warnings == []


def test_the_log_is_bounded() -> None:
    log = Log()
    for i in range(10 * KEPT_LINES):
        log.add("ERROR", str(i))
    assert len(log.errors) == KEPT_LINES
    assert log.errors[-1] == str(10 * KEPT_LINES - 1)


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("Error Code 2: OutOfMemory (no further information)", ResourceError, "--workspace"),
        ("Cuda Runtime (cudaError 2: out of memory)", ResourceError, "--workspace"),
        ("std::bad_alloc", ResourceError, "memory"),
        ("Error Code 10: Could not find any implementation for node a", ArtifactError, "variant"),
        ("CUDA initialization failure with error: 35", DeviceError, "nvidia-smi"),
        ("Error Code 9: API Usage Error", ArtifactError, "Usage"),
    ],
)
def test_a_failure_is_of_the_kind_that_its_words_say(text: str, kind: type, hint: str) -> None:
    log = Log()
    log.add("WARNING", "not this")
    log.add("ERROR", text)
    error = failure(log, "no engine")
    assert type(error) is kind
    assert str(error).startswith("no engine")
    assert hint in str(error)
    assert "not this" not in str(error)


def test_a_failure_without_words_says_so_and_long_words_are_cut() -> None:
    assert str(failure(Log(), "no engine")) == "no engine: no reason was given"
    log = Log()
    log.add("ERROR", "x" * 5000)
    assert len(str(failure(log, "no engine"))) < 600
