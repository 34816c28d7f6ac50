"""What a benchmark found fastest on this machine is what ``auto`` takes, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg.bundle import Bundle
from edgeseg.sessions import choose, remembered
from edgeseg.sessions.remembered import Measured, default_file, recall, remember

Edit = Callable[[Callable[[dict[str, Any]], object]], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def opened(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def measured(variant: str, ms: float, backend: str = "ort:cpu") -> Measured:
    return Measured(backend=backend, variant=variant, model_ms=ms)


def test_without_a_measurement_nothing_is_remembered(opened: Bundle) -> None:
    assert recall(opened) == ()
    assert "the first that works here" in choose(opened).why


def test_auto_takes_the_fastest_and_says_how_it_is_known(opened: Bundle) -> None:
    file = remember(opened, [measured("int8-cpu", 9.0), measured("fp32", 4.56)])
    assert file == default_file()
    assert [one.variant for one in recall(opened)] == ["fp32", "int8-cpu"]
    choice = choose(opened)
    assert (choice.backend, choice.variant) == ("ort:cpu", "fp32")
    assert choice.why == "auto: fastest here by 'edgeseg bench --remember' (4.6 ms)"
    assert choose(opened, variant="int8-cpu").variant == "int8-cpu"
    assert choose(opened, "ort:cpu").variant == "int8-cpu"  # only auto asks the memory


def test_what_does_not_work_any_more_is_passed_over(opened: Bundle) -> None:
    remember(
        opened,
        [
            measured("fp32", 1.0, "ort:cuda"),
            measured("fp32", 1.5, "gone:backend"),
            measured("gone", 1.7),
            measured("fp32", 2.0),
        ],
    )
    assert (choose(opened).backend, choose(opened).variant) == ("ort:cpu", "fp32")
    assert "(2.0 ms)" in choose(opened).why


def test_retrained_weights_profit_and_another_network_does_not(
    opened: Bundle, bundle: Path, edit_manifest: Edit
) -> None:
    remember(opened, [measured("fp32", 1.0)])
    edit_manifest(lambda manifest: manifest["model"].__setitem__("weights_sha256", "a" * 64))
    assert choose(Bundle.open(bundle)).variant == "fp32"
    edit_manifest(lambda manifest: manifest["model"]["config"].__setitem__("features", [8, 16]))
    assert recall(Bundle.open(bundle)) == ()


def test_several_networks_are_remembered(opened: Bundle, bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(lambda manifest: manifest["model"].__setitem__("parameters", 7))
    other = Bundle.open(bundle)
    remember(opened, [measured("fp32", 1.0)])
    remember(other, [measured("int8-cpu", 2.0)])
    assert [one.variant for one in recall(opened)] == ["fp32"]
    assert [one.variant for one in recall(other)] == ["int8-cpu"]


def test_another_machines_memory_is_no_help(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(opened, [measured("fp32", 1.0)])
    monkeypatch.setattr(remembered, "cpu_threads", lambda: 99)
    assert recall(opened) == ()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 2}', b"\xff"])
def test_a_damaged_memory_is_as_good_as_none(opened: Bundle, content: bytes) -> None:
    file = remember(opened, [measured("fp32", 1.0)])
    file.write_bytes(content)
    assert recall(opened) == ()
    remember(opened, [measured("fp32", 1.0)])
    assert json.loads(file.read_text())["schema_version"] == 1
