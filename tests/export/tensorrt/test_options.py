from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseg.engines.document import Flags, Profile
from edgeseg.errors import UsageError
from edgeseg_export.tensorrt.options import (
    Options,
    check,
    parse_batch,
    parse_compute_capabilities,
    parse_size_range,
)
from edgeseg_export.tensorrt.profiles import profiles_for


@pytest.mark.parametrize(("text", "batch"), [("1", (1, 1, 1)), ("1,4,8", (1, 4, 8))])
def test_a_batch_is_one_number_or_three(text: str, batch: tuple[int, ...]) -> None:
    assert parse_batch(text) == batch


@pytest.mark.parametrize("text", ["", "0", "1,2", "4,2,8", "1,2,1025", "-1", "1,x,2", "1.5", "٣"])
def test_a_bad_batch_is_refused_with_an_example_or_the_limits(text: str) -> None:
    with pytest.raises(UsageError, match=r"for example 1,4,8|within 1 \.\. 1024"):
        parse_batch(text)


def test_a_size_range_is_three_ascending_sizes() -> None:
    assert parse_size_range("64x32,64x48,128x48") == ((64, 32), (64, 48), (128, 48))
    for text, why in [
        ("64x64", "MIN,OPT,MAX"),
        ("64,32,128", "ascend"),
        ("64x64,64x32,64x64", "ascend"),
    ]:
        with pytest.raises(UsageError, match=why):
            parse_size_range(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [("120,86,8.9", ("86", "89", "120")), ("current", ("current",)), ("86,86", ("86",))],
)
def test_compute_capabilities_are_sorted_and_written_one_way(text: str, names: Any) -> None:
    assert parse_compute_capabilities(text) == names


@pytest.mark.parametrize("text", ["", "sm86", "86,current", "86;89"])
def test_bad_compute_capabilities_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_compute_capabilities(text)


def options(library: str, *, batch: tuple[int, int, int] = (1, 1, 1), **flags: Any) -> Options:
    timing_cache = flags.pop("timing_cache", None)
    return Options(library, None, batch, None, Flags(**flags), timing_cache)


@pytest.mark.parametrize(
    ("chosen", "hint"),
    [
        (options("tensorrt", compute_capabilities=("86",)), "tensorrt-rtx"),
        (options("tensorrt-rtx", hardware_compatibility="ampere+"), "--compute-capability"),
        (options("tensorrt-rtx", version_compatible=True), "fits its version only"),
        (options("tensorrt-rtx", timing_cache=Path("t")), "does not time kernels"),
        (options("tensorrt", timing_cache=Path("nowhere/t")), "'nowhere/t' does not exist"),
        (options("tensorrt-rtx", dla_core=0), "Jetson Orin"),
        (options("tensorrt", gpu_fallback=True), "add --dla-core"),
        (options("tensorrt", dla_core=0, batch=(1, 2, 4)), "one fixed shape"),
    ],
)
def test_options_of_the_other_library_are_refused_with_the_right_one(
    chosen: Options, hint: str
) -> None:
    with pytest.raises(UsageError, match=hint):
        check(chosen)


def test_a_fixed_size_is_one_profile(make_bundle) -> None:
    manifest = make_bundle(fp32=(b"", "fp32")).manifest
    expected = Profile(min=(1, 32, 32, 3), opt=(2, 32, 32, 3), max=(4, 32, 32, 3))
    assert profiles_for(manifest, (1, 2, 4), None) == (expected,)


def test_several_sizes_are_a_profile_each(make_bundle) -> None:
    manifest = make_bundle(sizes=((16, 32), (32, 32)), fp32=(b"", "fp32")).manifest
    found = profiles_for(manifest, (1, 1, 1), None)
    assert [profile.min for profile in found] == [(1, 16, 32, 3), (1, 32, 32, 3)]
    assert all(profile.min == profile.opt == profile.max for profile in found)


def test_a_size_range_is_one_profile_of_a_free_size(make_bundle) -> None:
    manifest = make_bundle(dynamic_size=True, fp32=(b"", "fp32")).manifest
    (found,) = profiles_for(manifest, (1, 1, 2), ((16, 16), (32, 32), (64, 48)))
    assert found == Profile(min=(1, 16, 16, 3), opt=(1, 32, 32, 3), max=(2, 64, 48, 3))


def test_a_size_range_must_be_one_the_graph_can_take(make_bundle) -> None:
    manifest = make_bundle(dynamic_size=True, fp32=(b"", "fp32")).manifest
    with pytest.raises(UsageError, match="30x32 is no multiple of 4; the next is 32x32"):
        profiles_for(manifest, (1, 1, 1), ((16, 16), (30, 32), (64, 64)))


def test_a_size_range_needs_a_free_size(make_bundle) -> None:
    manifest = make_bundle(fp32=(b"", "fp32")).manifest
    with pytest.raises(UsageError, match="this one is for 32x32; export with --dynamic size"):
        profiles_for(manifest, (1, 1, 1), ((16, 16), (32, 32), (64, 64)))
