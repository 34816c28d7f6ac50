"""The synthetic scenes: the same bytes everywhere, and the classes they promise."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgeseg_train.data.synthetic import SCENE_CLASSES, SCENE_KINDS, render_scene, scene_kind

SMALL = (64, 80)

# Rendered once; another machine or library version must reproduce these bytes.
PINNED: dict[tuple[int, str, tuple[int, int] | None], str] = {
    (0, "train", None): "57cf22820371eb99306ddc46119b211b2ed84269a1ff42edbc9f6c82c6da691e",
    (1, "train", None): "13d71e472881c3fbd0593a9025c16fcfdba6e2e117a17708e4a7de0a3c8fead9",
    (2, "train", None): "d132dd12fed03a2936b5a1e0985eb80baee83064196f978c2b188532705d2cec",
    (3, "train", None): "588acddf56b22ed3a933c442713cf2c1ef8fca43986a4ea45d813d7e90878a20",
    (4, "train", None): "e6cf49f3c7a9d2f65b10cfe10e9e201550a6386636fc7d081a9f14b8a351f8b9",
    (5, "train", None): "fec5571fc5862dfd975051b241fa75fe701d22070f0ac7025e0a22f08bdd7605",
    (6, "train", None): "7fa94e907b623829d6025dcf9179fca71de558802421a57f1d1aafe5001d71ca",
    (7, "train", None): "1acc5fbaf560458c8b85bc89e678ef92b2a2292d34c3d6a5173c530f089bf9c1",
    (8, "train", None): "864f55a2d8a43805eeee6b4337cb5ae47d38f3de62b07179cd0478c394171ab2",
    (9, "train", None): "4ebd2dac77b0779d35f76fe9735c246014963e92af69a68769f02e220adc95f5",
    (10, "train", None): "d91d456768f613a7592d9eed20d7aa2fbfc8ddf83f0f20fabc3a01ce84113ed6",
    (11, "train", None): "b6254fd6b38b262e6bf91c6921d17463d6f7bb30d8e31b726feffcbf12f1a8de",
    (12, "train", None): "941a5405cbc27a899239f50c6b812d25b956063a8e1cc746a473ba94bae5d4da",
    (0, "val", None): "d193ddb80856cbc9f760fe6a2d93fb9aa7aa23f8de32b15ee30442eb7375b71d",
    (7, "val", (96, 128)): "233c5c31d1c747097c81ae26043084d99d2edc6519c312997e6c23215c4ce23e",
    (2024, "train", (256, 256)): "623fb31da3d13446f90bf2bb624caa6866343536dca4548dbbcd0e7cea07e8a7",
    (5, "test", (512, 384)): "57f3740902a1384b6cb3e5f7b1e4f8ba8f1df5a87e735170b7bbd965d82e15c1",
}


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
