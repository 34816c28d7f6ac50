"""CUDA and TensorRT through ONNX Runtime, on a double of it: memory, graphs, options, engines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, DeviceError, ResourceError
from edgeseg.manifest import Precision
from edgeseg.sessions import Session, Settings, open_session
from edgeseg.sessions.ort.device import SHAPES
from edgeseg.sessions.ort.providers import cuda_options

CUDA, TRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"

Pretend = Callable[..., Any]
Edit = Callable[[Callable[[dict[str, Any]], object]], None]


def pictures(height: int, width: int, number: int = 1, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, height, width, 3), dtype=np.uint8)


@pytest.fixture
def cpu(logits: Bundle) -> Session:
    """What the double computes with, asked directly."""
    return open_session(logits, "ort:cpu", "fp32")


# --- answers


@pytest.mark.parametrize("backend", ["ort:cuda", "ort:tensorrt"])
def test_class_maps_and_logits_are_those_of_the_cpu(
    logits: Bundle, cpu: Session, pretend: Pretend, backend: str
) -> None:
    pretend([TRT, CUDA, CPU])
    session = open_session(logits, backend, "fp32")
    for image in (pictures(16, 24), pictures(16, 24, seed=6), pictures(16, 24, seed=7)):
        assert np.array_equal(session.infer(image), cpu.infer(image))
        assert np.array_equal(session.infer_logits(image), cpu.infer_logits(image))


def test_shapes_that_change_never_get_each_others_answers(
    logits: Bundle, cpu: Session, pretend: Pretend
) -> None:
    machine = pretend([CUDA, CPU])
    session = open_session(logits, "ort:cuda", "fp32")
    shapes = [(8 + 4 * i, 16, 1 + i % 2) for i in range(SHAPES + 3)]
    for round_ in range(3):
        for height, width, number in shapes:
            image = pictures(height, width, number, seed=round_)
            assert np.array_equal(session.infer(image), cpu.infer(image))
    numbers = [run["gpu_graph_id"] for run in machine.runs]
    assert len(set(numbers) - {"-1"}) == SHAPES
    assert numbers.count("-1") == 3 * 3  # three shapes too many, three times


def test_pictures_of_any_layout_in_memory_reach_the_device_whole(
    logits: Bundle, cpu: Session, pretend: Pretend
) -> None:
    pretend([CUDA, CPU])  # the double takes only what is contiguous
    session = open_session(logits, "ort:cuda", "fp32")
    wide = pictures(16, 48)
    assert np.array_equal(session.infer(wide[:, :, ::2]), cpu.infer(wide[:, :, ::2].copy()))


def test_an_answer_stays_when_the_memory_on_the_device_is_used_again(
    logits: Bundle, pretend: Pretend
) -> None:
    pretend([CUDA, CPU])
    session = open_session(logits, "ort:cuda", "fp32")
    first = session.infer(pictures(16, 16))
    kept = first.copy()
    assert not np.array_equal(session.infer(pictures(16, 16, seed=9)), kept)
    assert np.array_equal(first, kept)


def test_eight_threads_take_turns_and_get_what_one_gets(
    logits: Bundle, cpu: Session, pretend: Pretend
) -> None:
    pretend([CUDA, CPU])  # the double refuses two threads at a time
    session = open_session(logits, "ort:cuda", "fp32")
    images = [pictures(8 + 4 * (i % 3), 16, seed=i) for i in range(32)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(session.infer, images))
    assert all(np.array_equal(a, cpu.infer(b)) for a, b in zip(found, images, strict=True))


# --- failures


def test_after_out_of_memory_the_next_call_gets_new_memory_and_works(
    logits: Bundle, cpu: Session, pretend: Pretend
) -> None:
    machine = pretend([CUDA, CPU])
    session = open_session(logits, "ort:cuda", "fp32")
    machine.failures = [RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=here")]
    image = pictures(16, 16)
    with pytest.raises(ResourceError, match="out of memory during inference on ort:cuda"):
        session.infer(image)
    assert np.array_equal(session.infer(image), cpu.infer(image))
    first, second = (run["gpu_graph_id"] for run in machine.runs)
    assert first != second  # the first may have captured half a graph


def test_after_a_sticky_error_no_call_reaches_the_gpu_any_more(
    logits: Bundle, pretend: Pretend
) -> None:
    machine = pretend([CUDA, CPU])
    session = open_session(logits, "ort:cuda", "fp32")
    session.infer(pictures(16, 16))
    machine.failures = [RuntimeError("CUDA failure 700: an illegal memory access was encountered")]
    for _ in range(3):
        with pytest.raises(DeviceError, match="the GPU is lost to this process"):
            session.infer(pictures(16, 16))
    assert len(machine.runs) == 2
    session.close()
    session.close()


# --- what the providers are told


def test_cuda_is_told_to_be_exact_and_to_capture_graphs(
    opened: Bundle, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = pretend([CUDA, CPU])
    open_session(opened, "ort:cuda", "fp32")
    assert machine.created[-1]["options"] == {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "0",
        "enable_cuda_graph": "1",
    }
    assert machine.preloaded == 1
    assert capsys.readouterr().out == ""  # results go there, maybe as JSON


@pytest.mark.parametrize(("precision", "last"), [("fp32", "0"), ("fp16", "1"), ("int8", "0")])
def test_only_fp16_wants_the_channels_last(precision: Precision, last: str) -> None:
    assert cuda_options(precision, graphs=True)["prefer_nhwc"] == last


def test_tensorrt_is_told_its_shapes_and_a_private_folder_for_engines(
    logits: Bundle, pretend: Pretend, tmp_path: Path
) -> None:
    machine = pretend([TRT, CUDA, CPU])
    open_session(logits, "ort:tensorrt", "fp32", Settings(size=(32, 48), batch=4))
    options = machine.created[-1]["options"]
    assert options["trt_profile_min_shapes"] == "images:1x32x48x3"
    assert options["trt_profile_opt_shapes"] == "images:4x32x48x3"
    assert options["trt_profile_max_shapes"] == "images:4x32x48x3"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.parent == tmp_path / "cache" / "edgeseg" / "ort-engines"
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}


def test_engines_of_another_shape_model_or_precision_have_another_folder(
    bundle: Path, edit_manifest: Edit, pretend: Pretend
) -> None:
    machine = pretend([TRT, CUDA, CPU])

    def folder(settings: Settings) -> str:
        open_session(Bundle.open(bundle), "ort:tensorrt", "fp32", settings)
        found: str = machine.created[-1]["options"]["trt_engine_cache_path"]
        return found

    first = folder(Settings())
    assert folder(Settings()) == first
    assert folder(Settings(batch=2)) != first
    edit_manifest(lambda manifest: manifest["variants"]["fp32"].update(precision="fp16"))
    assert folder(Settings()) != first
    assert machine.created[-1]["options"]["trt_fp16_enable"] == "1"


def test_a_folder_for_engines_that_others_can_write_to_is_refused(
    opened: Bundle, pretend: Pretend, tmp_path: Path
) -> None:
    machine = pretend([TRT, CUDA, CPU])
    shared = tmp_path / "cache" / "edgeseg" / "ort-engines"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    with pytest.raises(ArtifactError, match=r"others can enter it"):
        open_session(opened, "ort:tensorrt", "fp32")
    assert machine.created == []
