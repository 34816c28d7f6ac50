"""Choosing backend and variant: as asked, or the best that works here, with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, UsageError
from edgeseg.sessions import (
    BACKENDS,
    CPU_BACKENDS,
    choose,
    open_session,
    problem,
    variants_for,
)

CUDA, TRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
GPU_BACKENDS = [name for name in BACKENDS if name not in CPU_BACKENDS]
ORT_BACKENDS = [name for name in BACKENDS if name.startswith("ort:")]

Edit = Callable[[Callable[[dict[str, Any]], object]], None]


def test_an_unknown_backend_is_a_usage_error_that_lists_the_known(opened: Bundle) -> None:
    for name in ("ort:gpu", "", "CPU", "ort:cpu "):
        with pytest.raises(UsageError) as caught:
            open_session(opened, name)
        assert str(caught.value).endswith(f"choose from auto, {', '.join(BACKENDS)}")


def test_an_unknown_variant_is_a_usage_error(opened: Bundle) -> None:
    with pytest.raises(UsageError, match="has no variant 'fp64'"):
        open_session(opened, "ort:cpu", "fp64")


def test_the_cpu_is_what_openvino_and_onnxruntime_run_on_by_themselves() -> None:
    assert set(CPU_BACKENDS) == {"ort:cpu", "openvino", "ort:openvino"}


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_cpu_variant_on_a_gpu_is_a_usage_error(opened: Bundle, backend: str) -> None:
    with pytest.raises(UsageError, match=f"'int8-cpu' is for CPUs and does not run on {backend}"):
        choose(opened, backend, "int8-cpu")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_cpu_gets_the_int8_variant_by_default(opened: Bundle, backend: str) -> None:
    assert choose(opened, backend).variant == "int8-cpu"


@pytest.mark.parametrize(
    ("available", "backend", "variant"),
    [
        ([CPU], "ort:cpu", "int8-cpu"),
        ([CUDA, CPU], "ort:cuda", "fp32"),
        ([TRT, CUDA, CPU], "ort:tensorrt", "fp32"),
    ],
)
def test_auto_takes_the_best_backend_that_works_and_says_why(
    opened: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    pretend: Callable[..., Any],
    available: list[str],
    backend: str,
    variant: str,
) -> None:
    pretend(available)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)  # not installed
    choice = choose(opened)
    assert (choice.backend, choice.variant) == (backend, variant)
    assert "auto: the first that works here" in choice.why
    assert f"variant {variant} is the default there" in choice.why


def test_auto_does_not_take_an_onnxruntime_for_gpus_where_there_is_no_gpu(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, pretend: Callable[..., Any]
) -> None:
    from edgeseg.sessions.ort import library

    pretend([TRT, CUDA, CPU])
    monkeypatch.setattr(library, "open_driver", lambda: None)
    assert choose(opened).backend == "ort:cpu"
    assert "no usable NVIDIA GPU here" in str(problem("ort:cuda"))


def test_what_was_asked_for_is_kept(opened: Bundle) -> None:
    choice = choose(opened, "ort:cpu", "fp32")
    assert (choice.backend, choice.variant, choice.why) == ("ort:cpu", "fp32", "as asked")


def test_a_cpu_without_an_int8_variant_gets_fp32(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(lambda manifest: manifest["variants"].pop("int8-cpu"))
    assert choose(Bundle.open(bundle), "ort:cpu").variant == "fp32"


def test_cpus_may_run_all_variants_and_gpus_only_those_for_any_device(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, pretend: Callable[..., Any]
) -> None:
    pretend([CUDA, CPU])
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)  # not installed
    assert variants_for(opened, "ort:cpu") == ["fp32", "int8-cpu"]
    assert variants_for(opened, "ort:cuda") == ["fp32"]
    assert variants_for(opened, "auto") == ["fp32"]


@pytest.mark.parametrize(
    ("gate", "value", "reason"),
    [
        ("min_agreement", 0.995, r"agreement with PyTorch 99\.\d+% is below 99\.50%"),
        ("miou", 0.0, "mIoU fell by 0.05"),
    ],
)
def test_a_bundle_rejected_at_export_is_refused_with_its_reason(
    bundle: Path, edit_manifest: Edit, gate: str, value: float, reason: str
) -> None:
    edit_manifest(
        lambda manifest: manifest["variants"]["int8-cpu"]["parity"].__setitem__(gate, value)
    )
    opened = Bundle.open(bundle)
    with pytest.raises(ArtifactError, match=f"was rejected at export: int8-cpu: .*{reason}"):
        open_session(opened, "ort:cpu")
    with pytest.raises(ArtifactError, match="was rejected at export: int8-cpu"):
        open_session(opened, "ort:cpu", "fp32")  # a rejected bundle is rejected whole


# --- what is not here


@pytest.mark.parametrize("backend", ["ort:cuda", "ort:tensorrt"])
def test_a_provider_that_this_onnxruntime_lacks_is_an_error_with_the_pip_line(
    opened: Bundle, pretend: Callable[..., Any], backend: str
) -> None:
    pretend([CPU])
    with pytest.raises(DeviceError) as caught:
        open_session(opened, backend, "fp32")
    message = str(caught.value)
    assert message.startswith(f"backend {backend} does not work here: onnxruntime 9.9 here has no")
    assert 'pip install "edgeseg[gpu]"' in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("ort:openvino", "onnxruntime_ep_openvino", "openvino"),
        ("ort:tensorrt-rtx", "onnxruntime_ep_nv_tensorrt_rtx", "tensorrt-rtx"),
    ],
)
def test_a_package_that_is_missing_is_an_error_with_the_pip_line(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DeviceError, match=rf'{package} is not .*pip install "edgeseg\[{extra}\]"'):
        open_session(opened, backend, "fp32")


def test_without_onnxruntime_every_backend_of_it_says_how_to_get_it(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    extras = {"ort:cpu": "cpu", "ort:openvino": "openvino", "ort:tensorrt-rtx": "tensorrt-rtx"}
    for backend in ORT_BACKENDS:
        line = rf'pip install "edgeseg\[{extras.get(backend, "gpu")}\]"'
        with pytest.raises(DeviceError, match=line):
            open_session(opened, backend, "fp32")
    with pytest.raises(DeviceError, match=r'no backend works here: .*"edgeseg\[cpu\]"'):
        open_session(opened, "auto", "fp32")


def test_an_onnxruntime_without_its_files_is_an_error_that_says_so(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Uninstalling onnxruntime-gpu beside onnxruntime leaves a folder that imports as nothing.
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(DeviceError, match=r"onnxruntime is damaged.*uninstall both"):
        open_session(opened, "ort:cpu")
    assert all("damaged" in str(problem(backend)) for backend in ORT_BACKENDS)


def test_an_onnxruntime_that_takes_no_plugins_is_said_to_be_too_old(
    monkeypatch: pytest.MonkeyPatch, pretend: Callable[..., Any]
) -> None:
    pytest.importorskip("onnxruntime_ep_openvino", reason="needs the extra openvino")
    pretend([CPU])  # the double has no register_execution_provider_library
    assert "takes no plugins; expected 1.23 or newer" in str(problem("ort:openvino"))
