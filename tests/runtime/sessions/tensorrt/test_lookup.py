"""Which engine is taken, which is refused, and with which words and command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from edgeseg.bundle import Bundle
from edgeseg.engines.cache import default_cache
from edgeseg.engines.compatibility import obstacles
from edgeseg.engines.device import Device
from edgeseg.engines.document import EngineKey, Flags, Profile
from edgeseg.engines.library import Library
from edgeseg.engines.log import Log
from edgeseg.errors import ArtifactError
from edgeseg.sessions import tensorrt
from edgeseg.sessions.protocol import Settings
from edgeseg.sessions.tensorrt.lookup import Wanted, find_engine

ORIN = Device(name="Orin", compute_capability="8.7", driver="540.4 (CUDA 12.6)")
XAVIER = Device(name="Xavier", compute_capability="7.2", driver="540.4 (CUDA 12.6)")
L4 = Device(name="L4", compute_capability="8.9", driver="580.1 (CUDA 13.0)")
SHAPE = (1, 48, 64, 3)


def library(version: str = "10.3.0", flavour: Any = "tensorrt") -> Library:
    return Library(flavour, version, None, Log(), None)


def key(**changes: Any) -> EngineKey:
    values: dict[str, Any] = {
        "onnx_sha256": "a" * 64,
        "library": "tensorrt",
        "version": "10.3.0",
        "device": ORIN,
        "flags": Flags(),
        "profiles": (Profile(min=SHAPE, opt=SHAPE, max=SHAPE),),
    }
    return EngineKey(**{**values, **changes})


# --- the verdict


def test_an_engine_built_here_runs_here() -> None:
    assert obstacles(key(), library(), ORIN) == []


@pytest.mark.parametrize(
    ("built", "here", "device", "expected"),
    [
        ({}, library("10.3.1"), ORIN, "built by tensorrt 10.3.0, this is TensorRT 10.3.1"),
        ({"version": "11.4.0"}, library(), ORIN, "built by tensorrt 11.4.0, this is TensorRT"),
        ({"library": "tensorrt-rtx"}, library(), ORIN, "built by tensorrt-rtx 10.3.0, this is"),
        ({}, library(), L4, "built for Orin (8.7), this is L4 (8.9)"),
        (
            {},
            library(),
            ORIN.model_copy(update={"driver": "540.5"}),
            "built with driver 540.4 (CUDA 12.6), this is 540.5",
        ),
        (
            {"device": None, "flags": Flags(compute_capabilities=("75", "89"))},
            library(),
            ORIN,
            "built for compute capability 75, 89, this is Orin (8.7)",
        ),
    ],
)
def test_an_engine_from_elsewhere_says_what_it_is_for_and_what_is_here(
    built: dict[str, Any], here: Library, device: Device, expected: str
) -> None:
    (found,) = obstacles(key(**built), here, device)
    assert expected in found


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.3.0", True), ("10.16.1.11", True), ("10.2.9", False), ("11.0.0", False)],
)
def test_a_version_compatible_engine_runs_on_later_versions_of_its_major(
    version: str, fits: bool
) -> None:
    portable = key(flags=Flags(version_compatible=True))
    assert (obstacles(portable, library(version), ORIN) == []) == fits


@pytest.mark.parametrize(
    ("compatibility", "device", "fits"),
    [
        ("ampere+", L4, True),
        ("ampere+", XAVIER, False),
        ("same-compute-capability", L4, False),
        ("same-compute-capability", ORIN.model_copy(update={"name": "Orin NX"}), True),
        ("none", ORIN.model_copy(update={"name": "Orin NX"}), False),
    ],
)
def test_a_hardware_compatible_engine_runs_on_the_gpus_it_was_built_for(
    compatibility: Any, device: Device, fits: bool
) -> None:
    portable = key(flags=Flags(hardware_compatibility=compatibility))
    assert (obstacles(portable, library(), device) == []) == fits


def test_an_rtx_engine_for_no_special_gpu_is_left_to_the_library_to_judge() -> None:
    anywhere = key(library="tensorrt-rtx", version="1.7.1", device=None)
    assert obstacles(anywhere, library("1.7.1", "tensorrt-rtx"), L4) == []


# --- the command


def command(bundle: Bundle, variant: str = "fp32", **settings: Any) -> list[str]:
    wanted = Wanted.of(bundle, "tensorrt", variant, Settings(**settings))
    return shlex.split(wanted.build_command)


def test_the_build_command_asks_for_what_the_session_needs(
    map_bundle: Bundle, logits_bundle: Bundle
) -> None:
    start = ["edgeseg", "build", str(map_bundle.path), "--backend", "tensorrt", "--variant"]
    assert command(map_bundle) == [*start, "fp32"]
    assert command(map_bundle, "int8-cpu", batch=4) == [*start, "int8-cpu", "--batch", "1,4,4"]
    free = command(logits_bundle, size=(96, 128), batch=2)
    assert free[-4:] == ["--batch", "1,2,2", "--size-range", "96x128,96x128,96x128"]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [None, (96, 128)])
def test_edgeseg_build_takes_the_command_and_makes_what_is_wanted(
    logits_bundle: Bundle, batch: int, size: tuple[int, int] | None
) -> None:
    options = pytest.importorskip("edgeseg_export.tensorrt.options", reason="needs the exporter")
    from edgeseg_export.tensorrt.profiles import profiles_for

    wanted = Wanted.of(logits_bundle, "tensorrt", "fp32", Settings(size, batch))
    words = shlex.split(wanted.build_command)
    given = dict(zip(words[3::2], words[4::2], strict=True))
    sizes = given.get("--size-range")
    profiles = profiles_for(
        logits_bundle.manifest,
        options.parse_batch(given.get("--batch", "1")),
        options.parse_size_range(sizes) if sizes else None,
    )
    assert any(profile.opt == wanted.shape for profile in profiles)
    assert given["--backend"] == "tensorrt"


# --- the search


def find(machine: Any, bundle: Bundle, **settings: Any) -> Any:
    wanted = Wanted.of(bundle, machine.backend, "fp32", Settings(**settings))
    return find_engine(wanted, *tensorrt._here(machine.backend)).engine


def test_without_a_cache_the_command_is_given_and_no_folder_is_made(
    machine: Any, map_bundle: Bundle
) -> None:
    with pytest.raises(ArtifactError) as caught:
        find(machine, map_bundle)
    expected = Wanted.of(map_bundle, "tensorrt", "fp32", Settings()).build_command
    assert str(caught.value).startswith("no engine for variant 'fp32' of ")
    assert str(caught.value).endswith(f"; run: {expected}")
    assert not default_cache().exists()
    assert tensorrt.unready(map_bundle, "tensorrt", "fp32") == str(caught.value)


def test_an_engine_of_another_model_is_none(
    machine: Any, map_bundle: Bundle, logits_bundle: Bundle
) -> None:
    machine.build(logits_bundle)
    with pytest.raises(ArtifactError, match="none was built yet; run: edgeseg build"):
        find(machine, map_bundle)


def test_the_engine_that_was_built_is_found(machine: Any, map_bundle: Bundle) -> None:
    built = machine.build(map_bundle)
    assert find(machine, map_bundle) == built
    assert tensorrt.unready(map_bundle, "tensorrt", "fp32") is None


def test_what_an_unfit_engine_is_for_is_said_before_tensorrt_sees_it(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle, version="10.3.0", device=ORIN)
    with pytest.raises(ArtifactError) as caught:
        machine.open(map_bundle)
    message = str(caught.value)
    assert "built by tensorrt 10.3.0, this is TensorRT 10.16.1.11" in message
    assert "built for Orin (8.7), this is Fake GPU (8.9)" in message
    assert "run: edgeseg build" in message
    assert "\n" not in message
    assert machine.scenario.calls == []


def test_an_engine_for_other_shapes_is_refused_with_both(
    machine: Any, logits_bundle: Bundle
) -> None:
    height, width = logits_bundle.manifest.sizes[0]
    machine.build(logits_bundle)
    with pytest.raises(ArtifactError) as caught:
        find(machine, logits_bundle, batch=3)
    wanted = f"built for input 1x{height}x{width}x3, wanted is 3x{height}x{width}x3"
    assert wanted in str(caught.value)


def test_of_several_that_fit_the_tuned_one_is_taken_and_then_the_newest(
    machine: Any, logits_bundle: Bundle
) -> None:
    low, high = (1, 16, 16, 3), (8, 512, 512, 3)
    dates = [f"2026-01-0{day}T00:00:00.000+00:00" for day in (1, 2, 3)]
    tuned = machine.build(logits_bundle, (low, (2, 96, 128, 3), high), created=dates[0])
    machine.build(logits_bundle, (low, low, high), created=dates[1])
    newest = machine.build(logits_bundle, (low, high, high), created=dates[2])
    assert find(machine, logits_bundle, size=(96, 128), batch=2) == tuned
    assert find(machine, logits_bundle, size=(96, 128)) == newest


def test_an_engine_that_was_changed_is_refused_with_the_command(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle)
    (plan,) = default_cache().glob("*.plan")
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=r"is corrupt: .*; run: edgeseg build"):
        machine.open(map_bundle)
    assert machine.scenario.calls == []


def test_an_engine_that_goes_away_meanwhile_is_refused_with_the_command(
    machine: Any, map_bundle: Bundle
) -> None:
    machine.build(map_bundle)
    wanted = Wanted.of(map_bundle, "tensorrt", "fp32", Settings())
    found = find_engine(wanted, *tensorrt._here("tensorrt"))
    found.cache.clean()
    with pytest.raises(ArtifactError, match=r"the engine is gone; run: edgeseg build"):
        found.read_plan()


def test_a_cache_that_others_can_enter_is_not_ready(machine: Any, map_bundle: Bundle) -> None:
    machine.build(map_bundle)
    default_cache().chmod(0o755)
    assert "others can enter it" in str(tensorrt.unready(map_bundle, "tensorrt", "fp32"))


def test_a_bundle_never_brings_an_engine(machine: Any, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    machine.build(opened)
    (bundle / "engines").mkdir()
    for file in default_cache().iterdir():
        file.rename(bundle / "engines" / file.name)
    default_cache().chmod(0o700)
    with pytest.raises(ArtifactError, match=re.escape("none was built yet")):
        machine.open(opened)
