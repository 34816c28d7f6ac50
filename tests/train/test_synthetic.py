"""The synthetic scenes: the same bytes everywhere, and the classes they promise."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgeseg_train.data.synthetic import SCENE_CLASSES, SCENE_KINDS, render_scene, scene_kind

SMALL = (64, 80)

# Rendered once; another machine or library version must reproduce these bytes.
PINNED = {}


def digest(index: int, split: str, size: tuple[int, int] | None) -> str:
    image, classes = render_scene(index, split, size)
    shape = repr((image.shape, classes.shape)).encode()
    return hashlib.sha256(shape + image.tobytes() + classes.tobytes()).hexdigest()


@pytest.mark.parametrize(("scene", "expected"), PINNED.items())
def test_bytes_are_pinned(scene: tuple[int, str, tuple[int, int] | None], expected: str) -> None:
    assert digest(*scene) == expected


def test_repeated_calls_give_the_same_bytes() -> None:
    for index in range(len(SCENE_KINDS)):
        assert digest(index, "train", SMALL) == digest(index, "train", SMALL)


@pytest.mark.parametrize("size", [(64, 96), (97, 61), (33, 120), (16, 16)])
def test_arrays(size: tuple[int, int]) -> None:
    for index in range(len(SCENE_KINDS)):
        image, classes = render_scene(index, "val", size)
        assert image.shape == (*size, 3)
        assert classes.shape == size
        assert image.dtype == classes.dtype == np.uint8
        assert image.flags.c_contiguous
        assert int(image.max()) - int(image.min()) > 60


def test_classes_are_the_listed_ones() -> None:
    seen: set[int] = set()
    for index in range(150):
        seen |= set(np.unique(render_scene(index, "train", SMALL)[1]).tolist())
    assert seen == set(SCENE_CLASSES)
    assert len(seen) >= 24
    assert all(0 <= number < 150 for number in seen)


def test_splits_differ() -> None:
    # Indices of the same kind in both splits, so that only the scene itself can differ.
    shift = next(i for i in range(len(SCENE_KINDS)) if scene_kind(i, "val") == scene_kind(0))
    for index in range(len(SCENE_KINDS)):
        assert scene_kind(index + shift, "val") == scene_kind(index, "train")
        train, val = (
            render_scene(index, "train", SMALL),
            render_scene(index + shift, "val", SMALL),
        )
        assert not np.array_equal(train[0], val[0])
        assert not np.array_equal(train[1], val[1])


def test_scenes_of_one_kind_differ() -> None:
    maps = [render_scene(i * len(SCENE_KINDS), "train", SMALL)[1].tobytes() for i in range(12)]
    assert len(set(maps)) == len(maps)


def test_every_kind_appears_equally_often() -> None:
    kinds = [scene_kind(index, "val") for index in range(5, 5 + 2 * len(SCENE_KINDS))]
    assert all(kinds.count(kind) == 2 for kind in SCENE_KINDS)
    assert len(set(SCENE_KINDS)) == len(SCENE_KINDS)


def test_sizes_and_orientations() -> None:
    sizes = {render_scene(index, "train")[1].shape for index in range(40)}
    assert len(sizes) >= 3
    assert any(height > width for height, width in sizes)
    assert any(height < width for height, width in sizes)
    assert all(192 <= side <= 384 for size in sizes for side in size)


def test_light_and_noise_vary_within_a_class() -> None:
    image, classes = render_scene(0, "train", (128, 128))
    common = int(np.bincount(classes.ravel()).argmax())
    pixels = image[classes == common]
    assert len(np.unique(pixels, axis=0)) > 200
