"""Opening a session: what is refused and why, stripped weights, kernels that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeseg.bundle import Bundle
from edgeseg.engines import cache as cache_module
from edgeseg.engines.cache import EngineCache, default_cache
from edgeseg.engines.document import Flags
from edgeseg.errors import ArtifactError, DeviceError, EdgeSegError, ResourceError
from edgeseg.sessions import BACKENDS, tensorrt

VERSIONS = ["10.3", "10.16", "11.4", "rtx-1.7"]
NewMachine = Callable[..., Any]


# --- opening


def test_the_registry_opens_both_backends_with_this_module() -> None:
    for name in ("tensorrt", "tensorrt-rtx"):
        assert BACKENDS[name].device == "gpu"
        assert BACKENDS[name].load() is tensorrt


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_that_tensorrt_does_not_load_is_an_artifact_error_with_the_command(
    new_machine: NewMachine, map_bundle: Bundle, version: str
) -> None:
    machine = new_machine(version)
    machine.build(map_bundle)
    machine.scenario.loads, machine.scenario.says = False, "Error Code 1: Serialization"
    with pytest.raises(ArtifactError, match=r"Serialization; run: edgeseg build .* --rebuild"):
        machine.open(map_bundle)


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("Error Code 1: Cuda Runtime (cudaError 35: driver is insufficient)", DeviceError),
        ("Error Code 2: OutOfMemory", ResourceError),
    ],
)
def test_a_plan_that_does_not_load_for_the_devices_sake_is_no_artifact_error(
    machine: Any, map_bundle: Bundle, says: str, kind: type[EdgeSegError]
) -> None:
    machine.build(map_bundle)
    machine.scenario.loads, machine.scenario.says = False, says
    with pytest.raises(kind):
        machine.open(map_bundle)


@pytest.mark.parametrize(
    ("bits", "kind", "words"),
    [
        (1, ArtifactError, "VERSION_MISMATCH; run: edgeseg build .* --rebuild"),
        (2, ArtifactError, "UNSUPPORTED_CC; run: .* --compute-capability current, or use"),
        (4, DeviceError, "OLD_CUDA_DRIVER; see nvidia-smi"),
        (3, ArtifactError, "UNSUPPORTED_CC, VERSION_MISMATCH"),
        (16, ResourceError, "INSUFFICIENT_GPU_MEMORY"),
    ],
)
def test_what_rtx_says_of_a_plan_is_heard_before_it_is_loaded(
    new_machine: NewMachine, map_bundle: Bundle, bits: int, kind: type[EdgeSegError], words: str
) -> None:
    machine = new_machine("rtx-1.7")
    machine.build(map_bundle)
    machine.scenario.validity = (2, bits)
    with pytest.raises(kind, match=words):
        machine.open(map_bundle)
    assert machine.scenario.calls == [("validity",)]


def test_an_engine_with_other_tensors_than_the_manifest_promises_is_refused(
    machine: Any, map_bundle: Bundle, fake_tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake_tensorrt.plan

    def other(outputs: dict[str, str], *arguments: Any, **options: Any) -> bytes:
        changed: bytes = plan({"scores": "FLOAT"}, *arguments, **options)
        return changed

    monkeypatch.setattr(fake_tensorrt, "plan", other)
    machine.build(map_bundle)
    with pytest.raises(ArtifactError, match=r"\['images', 'scores'\].*edgeseg build"):
        machine.open(map_bundle)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stripped_engine_gets_its_weights_from_the_bundle(
    new_machine: NewMachine, map_bundle: Bundle, version: str, pictures: Any, expected: Any
) -> None:
    machine = new_machine(version)
    machine.build(map_bundle, flags=Flags(strip_weights=True))
    session = machine.open(map_bundle)
    assert ("refit", map_bundle.read("model.fp32.onnx")) in machine.scenario.calls
    np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))


def test_a_stripped_engine_that_refuses_its_weights_is_an_error(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle, flags=Flags(strip_weights=True))
    machine.scenario.failing["refit_cuda_engine"] = 1
    with pytest.raises(DeviceError, match="did not fill the weights"):
        machine.open(map_bundle)


def test_a_version_compatible_engine_may_bring_its_own_runtime(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle, flags=Flags(version_compatible=True), version="10.3.0")
    machine.open(map_bundle)
    allowed = machine.scenario.calls.index(("set", "engine_host_code_allowed", True))
    assert allowed < machine.scenario.calls.index(("deserialise",))


def test_an_engine_for_a_dla_is_loaded_on_its_core_or_refused(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle, flags=Flags(dla_core=1))
    with pytest.raises(DeviceError, match="for DLA core 1 and this device has 0"):
        machine.open(map_bundle)
    machine.scenario.dla_cores = 2
    machine.open(map_bundle)
    assert ("set", "DLA_core", 1) in machine.scenario.calls


def test_no_gpu_no_library_and_no_cuda_runtime_are_told_in_this_order(
    machine: Any, map_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.build(map_bundle)
    assert tensorrt.problem("tensorrt") is None

    def no_library(flavour: str) -> Any:
        raise DeviceError("TensorRT is not usable here")

    machine.cuda.count = 0
    with pytest.raises(DeviceError, match="no CUDA runtime works here"):
        machine.open(map_bundle)
    monkeypatch.setattr(tensorrt, "load", no_library)
    with pytest.raises(DeviceError, match="TensorRT is not usable here"):
        machine.open(map_bundle)
    machine.device = None
    with pytest.raises(DeviceError, match=r"backend tensorrt does not work here: no usable NVIDIA"):
        machine.open(map_bundle)
    assert "no usable NVIDIA GPU" in str(tensorrt.unready(map_bundle, "tensorrt", "fp32"))


# --- kernels that TensorRT-RTX compiles


@pytest.fixture
def rtx(new_machine: NewMachine, map_bundle: Bundle) -> Any:
    machine = new_machine("rtx-1.7")
    machine.build(map_bundle)
    return machine


def test_compiled_kernels_are_kept_for_the_next_session(rtx: Any, map_bundle: Bundle) -> None:
    rtx.open(map_bundle).close()
    (kept,) = default_cache().glob("*.jit")
    assert kept.read_bytes() == b"kernels for this GPU"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert ("kernels", b"kernels for this GPU") not in rtx.scenario.calls
    before = kept.stat().st_mtime_ns
    rtx.open(map_bundle).close()
    assert ("kernels", b"kernels for this GPU") in rtx.scenario.calls
    assert kept.stat().st_mtime_ns == before  # nothing new: not written again


def test_kernels_of_another_gpu_are_replaced(
    rtx: Any, map_bundle: Bundle, pictures: Any, expected: Any
) -> None:
    rtx.open(map_bundle).close()
    (kept,) = default_cache().glob("*.jit")
    kept.write_bytes(b"of another GPU")
    session = rtx.open(map_bundle)
    np.testing.assert_array_equal(session.infer(pictures()), expected(pictures()))
    session.close()
    assert kept.read_bytes() == b"kernels for this GPU"


def test_kernels_that_others_could_have_written_are_not_loaded(
    rtx: Any, map_bundle: Bundle
) -> None:
    rtx.open(map_bundle).close()
    (kept,) = default_cache().glob("*.jit")
    kept.write_bytes(b"somebody's code")
    kept.chmod(0o666)
    rtx.open(map_bundle).close()
    assert ("kernels", b"somebody's code") not in rtx.scenario.calls
    assert kept.read_bytes() == b"kernels for this GPU"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_cache_that_cannot_be_written_costs_only_the_kernels(
    rtx: Any, map_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, pictures: Any
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "atomic_write", full)
    session = rtx.open(map_bundle)
    session.infer(pictures())
    session.close()
    assert not list(default_cache().glob("*.jit"))


def test_a_library_that_gives_no_kernels_leaves_none(rtx: Any, map_bundle: Bundle) -> None:
    rtx.scenario.kernels = None
    rtx.open(map_bundle).close()
    assert not list(default_cache().glob("*.jit"))


def test_the_kernels_belong_to_the_cache_and_go_with_it(rtx: Any, map_bundle: Bundle) -> None:
    rtx.open(map_bundle).close()
    cache = EngineCache.open(default_cache())
    assert cache.entries()[1] == []
    assert cache.clean()[0] == 1
    assert not list(default_cache().iterdir())


def test_the_kernels_of_a_discarded_engine_go_with_it(rtx: Any, map_bundle: Bundle) -> None:
    rtx.open(map_bundle).close()
    cache = EngineCache.open(default_cache())
    (engine,) = cache.entries()[0]
    cache.discard(engine.key)
    assert [path.suffix for path in default_cache().iterdir()] == [".lock"]
