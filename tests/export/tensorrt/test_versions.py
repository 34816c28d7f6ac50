"""TensorRT 10.3, 10.16 and 11.4 through a double with exactly their names, in their order."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseg.engines.device import MIB, Device
from edgeseg.engines.library import load
from edgeseg_export.tensorrt import building, memory

VERSIONS = ("10.3", "10.16", "11.4")
HERE = Path(__file__).parent
GPU = Device(name="A GPU", compute_capability="8.7", driver="540.4 (CUDA 12.6)")
Install = Callable[..., Any]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, fake_tensorrt: Any) -> Iterator[Install]:
    """Put a version of the double in TensorRT's place, on a machine with a GPU."""

    def put(version: str, **behaviour: Any) -> Any:
        load.cache_clear()
        behaviour.setdefault("inspector", (HERE / "engine_10.json").read_text())
        scenario = fake_tensorrt.Scenario(**behaviour)
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make(version, scenario))
        return scenario

    monkeypatch.setattr(building, "open_driver", object)
    monkeypatch.setattr(building, "find_device", lambda _: GPU)
    monkeypatch.setattr(memory, "free_device_bytes", lambda _: 4096 * MIB)
    yield put
    load.cache_clear()


@pytest.fixture
def build(make_bundle, edgeseg, cache: Path) -> Callable[..., Any]:
    """Run the command on a bundle; the double does not read its files."""
    bundle = make_bundle(fp16=(b"not read", "fp16"), int8=(b"nor this", "int8"), fp32=(b"", "fp32"))

    def run(*arguments: object) -> Any:
        return edgeseg("build", bundle.path, "--cache", cache, *arguments)

    return run


def settings(scenario: Any) -> dict[str, Any]:
    return {call[1]: call[2] for call in scenario.calls if call[0] in ("set", "pool")}


def builder_flags(scenario: Any) -> list[str]:
    return next(call[1] for call in scenario.calls if call[0] == "build")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_and_attests_network_and_engine(install, build, version) -> None:
    scenario = install(version)
    done = build("--json")
    assert done.code == 0, done.err
    document = done.document
    assert Path(document["engine"]).read_bytes() == b"the plan"
    assert document["key"]["version"] == sys.modules["tensorrt"].__version__
    assert document["key"]["device"] == GPU.model_dump()
    attestation = document["attestation"]
    assert attestation["requested"] == "fp16"
    assert [row["precision"] for row in attestation["network"]["convolutions"]] == ["fp16"] * 2
    assert [row["weights"] for row in attestation["network"]["convolutions"]] == [108, 16]
    assert {"layer": "CaskConvolution", "precision": "fp16", "layers": 1} in attestation["engine"][
        "layers"
    ]
    assert attestation["engine_unread"] is None
    assert builder_flags(scenario) == []  # no precision flags, and TF32 is off


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_reaches_the_builder(install, build, version, tmp_path: Path) -> None:
    scenario = install(version)
    timings = tmp_path / "timings"
    arguments = "--tf32 --workspace 64 --optimization-level 5 --version-compatible --strip-weights"
    compatibility = ("--hardware-compatibility", "ampere+", "--timing-cache", timings)
    done = build(*arguments.split(), *compatibility)
    assert done.code == 0, done.err
    assert builder_flags(scenario) == [
        "REFIT_IDENTICAL",
        "STRIP_PLAN",
        "TF32",
        "VERSION_COMPATIBLE",
    ]
    found = settings(scenario)
    assert found["WORKSPACE"] == 64 * MIB
    assert found["builder_optimization_level"] == 5
    assert found["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert found["engine_host_code_allowed"] is True  # to read such an engine back
    assert timings.read_bytes() == b"timings of this GPU"


def test_an_int8_engine_is_attested_behind_its_dequantisation(
    install, build, fake_tensorrt
) -> None:
    install(
        "11.4",
        nodes=fake_tensorrt.small_network("int8"),
        inspector=(HERE / "engine_11.json").read_text(),
    )
    done = build("--variant", "int8", "--json")
    assert done.code == 0, done.err
    first = done.document["attestation"]["network"]["convolutions"][0]
    assert (first["precision"], first["weights_precision"], first["weights"]) == (
        "int8",
        "int8",
        108,
    )


@pytest.mark.parametrize(
    ("variant", "there"), [("fp16", "fp32"), ("int8", "fp16"), ("fp32", "fp16")]
)
def test_a_network_that_is_not_what_its_variant_claims_is_not_built(
    install, build, fake_tensorrt, cache, variant: str, there: str
) -> None:
    scenario = install("10.16", nodes=fake_tensorrt.small_network(there))
    done = build("--variant", variant)
    assert done.code == 4
    assert f"is to be {variant} but its convolutions are: 2 {there}" in done.err
    assert not any(call[0] == "build" for call in scenario.calls)
    assert not list(cache.glob("*.plan"))


def test_an_engine_that_is_not_what_was_asked_for_is_not_kept(
    install, build, fake_tensorrt, cache
) -> None:
    silent = {"LayerType": "CaskConvolution", "Inputs": [{"Datatype": "Float"}]}
    install("11.4", inspector=json.dumps({"Layers": [silent]}))
    done = build()
    assert done.code == 4
    assert "has no layer at fp16; found: 1 CaskConvolution fp32" in done.err
    assert not list(cache.glob("*.plan"))


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_same_compute_capability_exists_since_10_16(install, build, version: str) -> None:
    scenario = install(version)
    assert build("--hardware-compatibility", "same-compute-capability").code == 0
    level = settings(scenario)["hardware_compatibility_level"]
    assert level.name == "SAME_COMPUTE_CAPABILITY"


def test_what_10_3_lacks_is_refused_by_name(install, build) -> None:
    install("10.3")
    done = build("--hardware-compatibility", "same-compute-capability")
    assert done.code == 6
    assert "TensorRT 10.3.0 has no HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY" in done.err


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_core_is_used_where_the_device_has_one(install, build, version: str) -> None:
    scenario = install(version, dla_cores=2)
    done = build("--dla-core", "1", "--gpu-fallback")
    assert done.code == 0, done.err
    found = settings(scenario)
    assert found["default_device_type"].name == "DLA"
    assert found["DLA_core"] == 1
    assert builder_flags(scenario) == ["GPU_FALLBACK"]
    adjusted = ("parser.set_flag", "ADJUST_FOR_DLA") in scenario.calls
    assert adjusted == (version != "10.3")


@pytest.mark.parametrize(
    ("cores", "core", "message"), [(0, 0, "sees no DLA core here"), (2, 2, "this device has 2")]
)
def test_a_dla_core_that_is_not_there_is_refused(install, build, cores, core, message) -> None:
    install("10.16", dla_cores=cores)
    done = build("--dla-core", core)
    assert done.code == 6
    assert message in done.err


def test_the_parsers_errors_become_one_line_with_node_and_operator(install, build) -> None:
    error = ("UNSUPPORTED_NODE", "node_7", "GridSample", "no importer\n registered")
    install("10.3", parse_errors=[error, error])
    done = build()
    assert done.code == 4
    assert done.err.splitlines()[-1] == (
        "edgeseg: error: TensorRT 10.3.0 does not take model.fp16.onnx: node 'node_7' "
        "(GridSample): no importer registered; use another variant, or export again"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_parser_running_out_of_memory_is_a_lack_of_resources(install, build, version) -> None:
    install(version, parse_errors=[("MEM_ALLOC_FAILED", "", "", "no memory")])
    assert build().code == 7


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("Error Code 2: OutOfMemory (requested 8589934592 bytes)", 7),
        ("Error Code 10: Could not find any implementation for node conv", 4),
        ("Error Code 1: Cuda Runtime (cudaError 700: illegal address)", 6),
        ("Error Code 9: API Usage Error (type mismatch)", 4),
    ],
)
def test_a_build_that_returns_none_says_why(install, build, cache, line: str, code: int) -> None:
    log = {"build": [("VERBOSE", "chatter"), ("WARNING", "careful"), ("ERROR", line)]}
    install("10.16", plan=None, log=log)
    done = build()
    assert done.code == code
    assert done.err.count("\n") == 2, done.err  # that it builds, and the error
    assert line in done.err
    assert "chatter" not in done.err
    assert not list(cache.glob("*.plan"))


def test_a_library_that_cannot_start_is_a_device_error(install, build) -> None:
    log = {"start": [("ERROR", "CUDA initialization failure with error: 35")]}
    install("10.3", starts=False, log=log)
    done = build()
    assert done.code == 6
    assert "cannot start" in done.err
    assert "CUDA initialization failure" in done.err


def test_warnings_are_kept_with_the_engine(install, build) -> None:
    install("10.3", log={"build": [("WARNING", "weights were clipped")] * 3})
    assert build("--json").document["warnings"] == ["weights were clipped"]


def test_an_engine_that_its_own_gpu_does_not_load_is_an_error(install, build, cache) -> None:
    log = {"load": [("ERROR", "Error Code 1: Serialization (magicTag)")]}
    install("10.3", inspector=None, log=log)
    done = build()
    assert done.code == 4
    assert "does not load the engine it has built" in done.err
    assert not list(cache.glob("*.plan"))


def test_an_input_that_the_manifest_does_not_describe_is_an_error(install, build) -> None:
    install("10.3", input_name="input.1")
    done = build()
    assert done.code == 4
    assert "'input.1'" in done.err


def test_too_little_device_memory_is_refused_before_the_build(install, build, monkeypatch) -> None:
    scenario = install("10.3")
    done = build("--workspace", "8192")
    assert done.code == 7
    assert "4096 MiB of GPU memory are free; building needs at least 8192 MiB" in done.err
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 100 * MIB)
    done = build()
    assert done.code == 7
    assert "100 MiB of host memory are free" in done.err
    assert scenario.calls == []


def test_a_good_timing_cache_is_reused_silently(install, build, tmp_path: Path) -> None:
    install("10.3")
    timings = tmp_path / "timings"
    timings.write_bytes(b"timings of this GPU")
    done = build("--timing-cache", timings)
    assert done.code == 0
    assert "timing cache" not in done.err


def test_a_corrupt_timing_cache_is_ignored_with_a_warning_and_replaced(
    install, build, tmp_path: Path
) -> None:
    install("10.3")
    timings = tmp_path / "timings"
    timings.write_bytes(b"garbage")
    done = build("--timing-cache", timings)
    assert done.code == 0
    assert f"warning: timing cache {timings} is corrupt" in done.err
    assert timings.read_bytes() == b"timings of this GPU"


def test_a_timing_cache_that_cannot_be_read_or_written_costs_no_engine(
    install, build, tmp_path: Path
) -> None:
    install("10.3")
    (tmp_path / "timings").mkdir()
    done = build("--timing-cache", tmp_path / "timings")
    assert done.code == 0
    assert "warning: cannot read timing cache" in done.err
    assert "warning: cannot write timing cache" in done.err


def test_another_version_or_driver_means_another_engine_and_says_so(
    install, build, monkeypatch
) -> None:
    install("10.3")
    assert build().code == 0
    install("10.16")
    done = build()
    assert "the engine here is for tensorrt 10.3.0, not 10.16.1.11; building" in done.err
    newer = GPU.model_copy(update={"driver": "580.1 (CUDA 13.0)"})
    monkeypatch.setattr(building, "find_device", lambda _: newer)
    done = build()
    assert "driver 540.4 (CUDA 12.6)), not A GPU (8.7, driver 580.1 (CUDA 13.0))" in done.err
    assert build("--json").document["reused"] is True


def test_other_flags_or_shapes_mean_another_engine(install, build) -> None:
    install("10.3")
    assert build().code == 0
    assert "tf32 off, not on" in build("--tf32").err
    assert "other input shapes" in build("--batch", "2").err


def test_a_failure_inside_the_builder_thread_reaches_the_user(install, build) -> None:
    install("10.3", raises=MemoryError("host"))
    assert build().code == 7


def test_tensorrt_needs_a_gpu(install, build, monkeypatch) -> None:
    install("10.3")
    monkeypatch.setattr(building, "find_device", lambda _: None)
    done = build()
    assert done.code == 6
    assert "builds on the GPU it builds for" in done.err
