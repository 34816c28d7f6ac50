"""Backends are strict: what was asked for runs, or an error says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, InputError, ResourceError, UsageError
from edgeseg.sessions import BACKENDS, choose, open_session, problem, variants_for
from edgeseg.sessions.protocol import class_map_from_logits

Edit = Callable[[Callable[[dict[str, Any]], object]], None]
Replace = Callable[[str, bytes], None]
GPU_BACKENDS = [name for name in BACKENDS if name != "ort:cpu"]


@pytest.fixture
def opened(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def pretend(monkeypatch: pytest.MonkeyPatch, available: list[str], used: list[str]) -> list[Any]:
    """Let onnxruntime claim providers and sessions use others; return the sessions' arguments."""
    calls: list[Any] = []

    class FakeSession:
        def __init__(self, model: bytes, **options: Any) -> None:
            calls.append(options)

        def get_providers(self) -> list[str]:
            return used

    fake = SimpleNamespace(
        __version__="9.9",
        SessionOptions=onnxruntime.SessionOptions,
        InferenceSession=FakeSession,
        get_available_providers=lambda: available,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return calls


CUDA, TRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


# --- choosing


def test_an_unknown_backend_is_a_usage_error_that_lists_the_known(opened: Bundle) -> None:
    for name in ("ort:gpu", "", "CPU", "ort:cpu "):
        with pytest.raises(UsageError, match="choose from auto, ort:tensorrt, ort:cuda"):
            open_session(opened, name)


def test_an_unknown_variant_is_a_usage_error(opened: Bundle) -> None:
    with pytest.raises(UsageError, match="has no variant 'fp64'"):
        open_session(opened, "ort:cpu", "fp64")


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_gpu_backend_that_is_not_here_is_an_error_with_the_pip_line(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    pretend(monkeypatch, [CPU], [CPU])
    with pytest.raises(DeviceError) as caught:
        open_session(opened, backend, "fp32")
    message = str(caught.value)
    assert message.startswith(f"backend {backend} does not work here: onnxruntime 9.9 here has no")
    assert 'pip install "edgeseg[gpu]"' in message
    assert "\n" not in message


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_a_cpu_variant_on_a_gpu_is_a_usage_error(opened: Bundle, backend: str) -> None:
    with pytest.raises(UsageError, match="'int8-cpu' is for CPUs and does not run on ort:"):
        choose(opened, backend, "int8-cpu")


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
    available: list[str],
    backend: str,
    variant: str,
) -> None:
    pretend(monkeypatch, available, available)
    choice = choose(opened)
    assert (choice.backend, choice.variant) == (backend, variant)
    assert "first of ort:tensorrt, ort:cuda, ort:cpu that works here" in choice.why
    assert f"variant {variant} is the default there" in choice.why


def test_what_was_asked_for_is_kept(opened: Bundle) -> None:
    choice = choose(opened, "ort:cpu", "fp32")
    assert (choice.backend, choice.variant, choice.why) == ("ort:cpu", "fp32", "as asked")


def test_a_cpu_without_an_int8_variant_gets_fp32(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(lambda manifest: manifest["variants"].pop("int8-cpu"))
    assert choose(Bundle.open(bundle), "ort:cpu").variant == "fp32"


def test_cpus_may_run_all_variants_and_gpus_only_those_for_any_device(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, [CUDA, CPU], [CUDA, CPU])
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


# --- opening


@pytest.mark.parametrize(("backend", "provider"), [("ort:cuda", CUDA), ("ort:tensorrt", TRT)])
def test_a_silent_fallback_to_the_cpu_is_an_error(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str, provider: str
) -> None:
    calls = pretend(monkeypatch, [TRT, CUDA, CPU], [CPU])
    with pytest.raises(DeviceError, match=f"asked for {provider}, but .* fell back to {CPU}"):
        open_session(opened, backend, "fp32")
    assert len(calls) == 1
    assert calls[0]["providers"] == [provider]


def test_a_missing_onnxruntime_is_an_error_with_the_pip_line(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for backend in ("auto", *BACKENDS):
        extra = "cpu" if backend in ("auto", "ort:cpu") else "gpu"
        with pytest.raises(DeviceError, match=rf'pip install "edgeseg\[{extra}\]"'):
            open_session(opened, backend, "fp32")
        if backend != "auto":
            assert f'pip install "edgeseg[{extra}]"' in str(problem(backend))


def test_an_onnxruntime_without_its_files_is_an_error_that_says_so(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Uninstalling onnxruntime-gpu beside onnxruntime leaves a folder that imports as nothing.
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(DeviceError, match=r"onnxruntime is damaged.*uninstall both"):
        open_session(opened, "ort:cpu")
    assert all("damaged" in str(problem(backend)) for backend in BACKENDS)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09" * 50])
def test_a_file_that_is_no_model_is_an_artifact_error(
    bundle: Path, replace_file: Replace, data: bytes
) -> None:
    replace_file("model.fp32.onnx", data)
    with pytest.raises(ArtifactError, match=r"cannot load '.*bundle:fp32'") as caught:
        open_session(Bundle.open(bundle), "ort:cpu", "fp32")
    assert "\n" not in str(caught.value)


def test_a_corrupt_model_is_never_given_to_onnxruntime(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pretend(monkeypatch, [CPU], [CPU])
    opened = Bundle.open(bundle)
    (bundle / "model.fp32.onnx").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="is corrupt"):
        open_session(opened, "ort:cpu", "fp32")
    assert calls == []


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("input", "name", "pictures"),
        ("input", "dtype", "float32"),
        ("outputs", "name", "logits"),
        ("outputs", "dtype", "float32"),
        ("outputs", "shape", ["batch", 150, 48, 64]),
    ],
)
def test_a_graph_other_than_the_manifest_promises_is_an_artifact_error(
    bundle: Path, edit_manifest: Edit, where: str, field: str, value: object
) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        spec = manifest[where] if where == "input" else manifest[where][0]
        spec[field] = value

    edit_manifest(edit)
    with pytest.raises(ArtifactError, match="which the manifest promises"):
        open_session(Bundle.open(bundle), "ort:cpu", "fp32")


# --- running


def test_a_session_answers_as_pytorch_did(opened: Bundle) -> None:
    reference = opened.reference()
    session = open_session(opened, "ort:cpu", "fp32")
    assert (session.backend, session.variant) == ("ort:cpu", "fp32")
    found = session.infer(reference.images)
    assert found.shape == reference.class_maps.shape
    assert found.dtype == np.uint8
    assert np.mean(found == reference.class_maps) > 0.999


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 48, 64, 3), np.float32),
        np.zeros((1, 48, 64, 3), np.int8),
        np.zeros((48, 64, 3), np.uint8),
        np.zeros((1, 64, 48, 3), np.uint8),
        np.zeros((1, 3, 48, 64), np.uint8),
        np.zeros((1, 48, 64, 4), np.uint8),
        np.zeros((0, 48, 64, 3), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}-{images.shape}",
)
def test_an_input_of_another_shape_or_dtype_is_an_input_error(
    opened: Bundle, images: np.ndarray
) -> None:
    session = open_session(opened, "ort:cpu", "fp32")
    with pytest.raises(InputError) as caught:
        session.infer(images)
    assert f"got shape {images.shape} and dtype {images.dtype}" in str(caught.value)
    assert "expected uint8 ('batch', 48, 64, 3)" in str(caught.value)


def test_a_closed_session_raises_and_closes_again(opened: Bundle) -> None:
    session = open_session(opened, "ort:cpu")
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="the session is closed; open a new one"):
        session.infer(np.zeros((1, 48, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (RuntimeError("CUDA failure 999\nand a stack"), DeviceError),
        (RuntimeError("BFCArena: Failed to allocate memory for requested buffer"), ResourceError),
        (RuntimeError("std::bad_alloc"), ResourceError),
        (MemoryError(), ResourceError),
    ],
)
def test_failures_while_running_are_device_or_resource_errors(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type[Exception]
) -> None:
    session = open_session(opened, "ort:cpu", "fp32")

    def run(*_: object) -> None:
        raise failure

    monkeypatch.setattr(session, "_session", SimpleNamespace(run=run))
    with pytest.raises(kind) as caught:
        session.infer(np.zeros((1, 48, 64, 3), np.uint8))
    assert "\n" not in str(caught.value)


def test_logits_become_the_class_of_the_highest() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    found = class_map_from_logits(logits)
    assert found.dtype == np.uint8
    assert found.shape == (2, 3, 4)
    for n, row, column in np.ndindex(2, 3, 4):
        values = logits[n, :, row, column].tolist()
        assert values[found[n, row, column]] == max(values)


def test_equal_logits_give_the_lowest_class() -> None:
    assert class_map_from_logits(np.zeros((1, 4, 1, 1), np.float32)).tolist() == [[[0]]]
