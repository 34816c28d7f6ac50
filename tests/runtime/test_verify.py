"""The replay of PyTorch's answers: passes on a good bundle, fails on a changed one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import ArtifactError, GateFailed
from edgeseg.sessions import open_session
from edgeseg.verify import compare, verify

Replace = Callable[[str, bytes], None]
Cli = Callable[..., Any]


class Fixed:
    """A session that answers with given class maps, one image after the other."""

    backend, variant = "fake", "fp32"

    def __init__(self, maps: NDArray[np.uint8]) -> None:
        self.maps = list(maps)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([self.maps.pop(0) for _ in images])

    def close(self) -> None:
        pass


def shift_classes(bundle: Path, replace_file: Replace, share: float) -> None:
    """Rewrite ``reference.npz`` so that PyTorch seems to have answered otherwise."""
    with np.load(bundle / "reference.npz") as arrays:
        found = dict(arrays)
    flat = found["class_maps"].reshape(-1)
    flat[: int(len(flat) * share)] = (flat[: int(len(flat) * share)] + 1) % 150
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    replace_file("reference.npz", buffer.getvalue())


@pytest.mark.parametrize(("variant", "gate"), [("fp32", 0.999), ("int8-cpu", 0.85)])
def test_the_committed_bundle_passes(tiny_bundle: Path, variant: str, gate: float) -> None:
    bundle = Bundle.open(tiny_bundle)
    outcome = verify(bundle, open_session(bundle, "ort:cpu", variant))
    assert outcome.passed
    assert outcome.variant == variant
    assert outcome.backend == "ort:cpu"
    assert outcome.images == len(bundle.reference().images) > 1
    assert outcome.agreement >= outcome.min_agreement == gate
    assert outcome.to_dict()["passed"] is True


def test_agreement_and_margin_are_those_of_the_changed_pixels(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    reference = bundle.reference()
    maps = reference.class_maps.copy()
    places = [(0, 0, 0), (1, 5, 7), (3, 47, 63)]
    for place in places:
        maps[place] = (maps[place] + 1) % 150
    outcome = verify(bundle, Fixed(maps))
    assert outcome.agreement == pytest.approx(1 - 3 / maps.size, abs=1e-12)
    assert outcome.max_flip_margin == max(float(reference.margins[place]) for place in places)


def test_changed_answers_fail_the_gate(bundle: Path, replace_file: Replace, edgeseg: Cli) -> None:
    shift_classes(bundle, replace_file, 0.5)
    opened = Bundle.open(bundle)
    with pytest.raises(GateFailed, match=r"fp32 on ort:cpu agrees .* requires 99\.90%"):
        verify(opened, open_session(opened, "ort:cpu", "fp32"))
    done = edgeseg("verify", bundle, "--variant", "fp32")
    assert done.code == 5
    assert done.out == ""
    assert "the bundle requires 99.90%" in done.error_line


def test_a_few_changed_answers_still_pass(bundle: Path, replace_file: Replace) -> None:
    shift_classes(bundle, replace_file, 0.0005)
    opened = Bundle.open(bundle)
    outcome = verify(opened, open_session(opened, "ort:cpu", "fp32"))
    assert outcome.agreement == pytest.approx(0.9995, abs=0.0002)


def test_all_files_are_hashed_also_those_the_session_does_not_use(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    session = open_session(opened, "ort:cpu", "fp32")
    with (bundle / "model.int8-cpu.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=r"model\.int8-cpu\.onnx' is corrupt"):
        verify(opened, session)


def test_equal_maps_have_no_flipped_margin() -> None:
    maps = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert compare(maps, maps, np.full(maps.shape, 9, np.float16)) == (1.0, 0.0)


def test_compare_counts_by_hand() -> None:
    maps = np.zeros((1, 2, 4), np.uint8)
    other = maps.copy()
    other[0, 0, 1] = other[0, 1, 3] = 5
    margins = np.arange(8, dtype=np.float16).reshape(1, 2, 4)
    assert compare(maps, other, margins) == (0.75, 7.0)
