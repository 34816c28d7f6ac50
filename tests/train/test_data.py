"""Data sets on disk and the embedded one: names, masks as class ids, clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import InputError, UsageError
from edgeseg.labels import ade20k_labels
from edgeseg_train.data import open_source
from edgeseg_train.data.synthetic import SCENE_CLASSES

TABLE = """id\tname\tr\tg\tb\trole
0\tsky\t1\t2\t3\tclass
1\troad\t4\t5\t6\tclass
9\tvoid\t0\t0\t0\tvoid
"""


def write_pair(root: Path, split: str, name: str, ids: list[list[int]]) -> None:
    mask = np.array(ids, dtype=np.uint8)
    for folder in ("images", "annotations"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    picture = np.full((*mask.shape, 3), 40, dtype=np.uint8)
    Image.fromarray(picture).save(root / "images" / split / f"{name}.jpg")
    Image.fromarray(mask).save(root / "annotations" / split / f"{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pair(tmp_path, "train", "a", [[0, 1], [9, 255]])
    write_pair(tmp_path, "train", "b", [[0, 0], [1, 1]])
    write_pair(tmp_path, "val", "c", [[1, 1], [1, 0]])
    (tmp_path / "classes.tsv").write_text(TABLE)
    return tmp_path


def test_a_folder_gives_names_pictures_and_masks_with_void_ignored(root: Path) -> None:
    source = open_source(f"folder:{root}")
    train = source.split("train")
    assert source.labels.names == ("sky", "road")
    assert source.labels.palette == ((1, 2, 3), (4, 5, 6))
    assert train.names == ("a", "b")
    assert source.split("val").names == ("c",)
    np.testing.assert_array_equal(train.mask(0), [[0, 1], [255, 255]])
    assert train.mask(0).dtype == np.uint8
    assert train.image(0).shape == (2, 2, 3)
    assert train.encoded(0) == (root / "images/train/a.jpg").read_bytes()


def test_without_a_class_table_the_masks_are_counted(root: Path) -> None:
    (root / "classes.tsv").unlink()
    source = open_source(f"folder:{root}")
    assert source.labels.num_classes == 10
    assert len(set(source.labels.palette)) == 10


def test_an_id_that_no_class_names_is_an_error_that_names_file_and_id(root: Path) -> None:
    write_pair(root, "val", "c", [[0, 7]])
    with pytest.raises(InputError, match=r"c\.png.*no class: \[7\]"):
        open_source(f"folder:{root}").split("val").mask(0)


def test_palette_masks_keep_their_indices(root: Path) -> None:
    mask = Image.fromarray(np.array([[1, 0], [0, 1]], dtype=np.uint8)).convert("P")
    mask.putpalette([200, 10, 10, 3, 200, 3])
    mask.save(root / "annotations/val/c.png")
    np.testing.assert_array_equal(
        open_source(f"folder:{root}").split("val").mask(0), [[1, 0], [0, 1]]
    )


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("annotations/train/a.png", "1 of 2 images .* have no mask.*a.jpg"),
        ("images/train/a.jpg", "1 masks .* have no image: a"),
    ],
)
def test_pictures_and_masks_without_a_partner_are_errors(
    root: Path, remove: str, message: str
) -> None:
    (root / remove).unlink()
    with pytest.raises(InputError, match=message):
        open_source(f"folder:{root}")


def test_a_missing_folder_and_an_empty_one_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_source(f"folder:{tmp_path / 'none'}")
    with pytest.raises(InputError, match="has no images/train or images/val"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id\tname\n0\tsky\n", "lacks the columns"),
        ("id\tname\tr\tg\tb\n0\tsky\t1\t2\tx\n", "line 2"),
        ("id\tname\tr\tg\tb\n0\ta\t1\t2\t3\n0\tb\t1\t2\t3\n", "twice"),
        ("id\tname\tr\tg\tb\n0\ta\t1\t2\t3\n2\tb\t1\t2\t3\n", "without gaps"),
        ("id\tname\tr\tg\tb\n0\ta\t1\t2\t300\n", "palette.0.2: .*255"),
    ],
)
def test_a_faulty_class_table_is_an_error(root: Path, table: str, message: str) -> None:
    (root / "classes.tsv").write_text(table)
    with pytest.raises(InputError, match=message):
        open_source(f"folder:{root}")


def test_ade20k_ids_are_shifted_and_other_is_ignored(tmp_path: Path) -> None:
    write_pair(tmp_path, "validation", "ADE_val_00000001", [[0, 1], [150, 3]])
    source = open_source(f"ade20k:{tmp_path}")
    np.testing.assert_array_equal(source.split("val").mask(0), [[255, 0], [149, 2]])
    assert source.labels.names[2] == "sky"
    with pytest.raises(UsageError, match="no train images"):
        source.split("train")


def test_ade20k_ids_above_150_are_errors(tmp_path: Path) -> None:
    write_pair(tmp_path, "validation", "x", [[151]])
    with pytest.raises(InputError, match="151"):
        open_source(f"ade20k:{tmp_path}").split("val").mask(0)


def test_synthetic_scenes_use_ade20k_names_and_the_counts_asked_for() -> None:
    source = open_source("synthetic:5+2")
    assert source.labels == ade20k_labels()
    assert [len(source.split(s).names) for s in ("train", "val")] == [5, 2]
    for class_id, name in SCENE_CLASSES.items():
        assert source.labels.names[class_id] == name


def test_an_encoded_scene_decodes_to_the_same_pixels() -> None:
    from edgeseg.images import read_image

    split = open_source("synthetic:2+2").split("val")
    np.testing.assert_array_equal(read_image(split.encoded(1)), split.image(1))


@pytest.mark.parametrize(
    "spec", ["", "nothing", "synthetic:", "synthetic:0+1", "synthetic:5", "folder:", "hf:x"]
)
def test_an_unknown_data_set_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError):
        open_source(spec)
