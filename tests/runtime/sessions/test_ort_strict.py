"""What was asked for runs, and all of it; or an error names what does not, or the session does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError
from edgeseg.sessions import Settings, open_session

CUDA, TRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
FALLEN = [("ArgMax", "argmax"), ("Cast", "node__to_copy_1")]
ALLOWED = Settings(allow_fallback=True)

Pretend = Callable[..., Any]


@pytest.mark.parametrize(("backend", "provider"), [("ort:cuda", CUDA), ("ort:tensorrt", TRT)])
def test_another_provider_than_asked_for_is_an_error(
    opened: Bundle, pretend: Pretend, backend: str, provider: str
) -> None:
    machine = pretend([TRT, CUDA, CPU], used=[CPU])
    with pytest.raises(DeviceError, match=f"asked for {provider} .* fell back to {CPU}"):
        open_session(opened, backend, "fp32")
    assert {call["provider"] for call in machine.created} == {provider}
    assert {call["enable_fallback"] for call in machine.created} == {0}


@pytest.mark.parametrize("backend", ["ort:cuda", "ort:tensorrt"])
def test_nodes_on_the_cpu_are_an_error_that_names_them(
    opened: Bundle, pretend: Pretend, backend: str
) -> None:
    pretend([TRT, CUDA, CPU], fallen=FALLEN)
    with pytest.raises(DeviceError) as caught:
        open_session(opened, backend, "fp32")
    message = str(caught.value)
    assert f"2 of 4 nodes run on {CPU}: ArgMax 'argmax', Cast 'node__to_copy_1'" in message
    assert "--allow-fallback" in message
    assert "\n" not in message


def test_of_many_nodes_some_are_named_and_the_others_counted(
    opened: Bundle, pretend: Pretend
) -> None:
    pretend([CUDA, CPU], fallen=[("Resize", f"up{i}") for i in range(9)])
    with pytest.raises(DeviceError, match=r"9 of 11 nodes .* 'up4' and 4 more;"):
        open_session(opened, "ort:cuda", "fp32")


def test_an_onnxruntime_that_does_not_tell_is_forbidden_the_cpu(
    opened: Bundle, pretend: Pretend
) -> None:
    machine = pretend([CUDA, CPU], fallen=FALLEN, tells=False)
    with pytest.raises(DeviceError, match="CUDAExecutionProvider cannot load"):
        open_session(opened, "ort:cuda", "fp32")
    options = machine.created[-1]["session"]
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    machine.fallen = []
    assert open_session(opened, "ort:cuda", "fp32").fallback is None


def test_an_onnxruntime_that_does_not_tell_leaves_an_allowed_fallback_open(
    opened: Bundle, pretend: Pretend
) -> None:
    pretend([CUDA, CPU], fallen=FALLEN, tells=False)
    session = open_session(opened, "ort:cuda", "fp32", ALLOWED)
    assert "this onnxruntime does not tell" in str(session.fallback)


def test_with_a_fallback_allowed_the_session_runs_and_says_what_runs_where(
    opened: Bundle, pretend: Pretend
) -> None:
    machine = pretend([CUDA, CPU], fallen=FALLEN)
    session = open_session(opened, "ort:cuda", "fp32", ALLOWED)
    assert session.fallback == f"2 of 4 nodes run on {CPU}: ArgMax 'argmax', Cast 'node__to_copy_1'"
    assert machine.created[-1]["options"]["enable_cuda_graph"] == "0"
    reference = opened.reference()
    assert np.mean(session.infer(reference.images) == reference.class_maps) > 0.999


def test_with_a_fallback_allowed_and_not_needed_nothing_is_said(
    opened: Bundle, pretend: Pretend
) -> None:
    pretend([CUDA, CPU])
    assert open_session(opened, "ort:cuda", "fp32", ALLOWED).fallback is None


def test_with_a_fallback_allowed_a_missing_provider_leaves_all_to_the_cpu(opened: Bundle) -> None:
    session = open_session(opened, "ort:cuda", "fp32", ALLOWED)
    assert session.backend == "ort:cuda"
    assert str(session.fallback).startswith(f"all of it runs on {CPU}: backend ort:cuda does not")
    reference = opened.reference()
    assert np.mean(session.infer(reference.images) == reference.class_maps) > 0.999


def test_a_corrupt_file_is_an_error_also_with_a_fallback_allowed(bundle: Path) -> None:
    (bundle / "model.fp32.onnx").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="is corrupt"):
        open_session(Bundle.open(bundle), "ort:cuda", "fp32", ALLOWED)
