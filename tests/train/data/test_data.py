"""Data sets on disk and the embedded one: names, masks as class ids, clear errors."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import InputError, UsageError
from edgeseg.labels import ade20k_labels
from edgeseg_train.data import MaskIdError, content_digest, open_source, scenes
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
    "spec", ["", "nothing", "synthetic:", "synthetic:0+1", "synthetic:5", "folder:", "ade20k:"]
)
def test_an_unknown_data_set_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError):
        open_source(spec)


# --- what the ids in mask files mean


def first_mask(root: Path, split: str = "train", **options: int | bool) -> list[list[int]]:
    mask = open_source(f"folder:{root}", **options).split(split).mask(0)
    return mask.tolist()


def test_an_id_of_the_files_can_be_ignored_besides_255(root: Path) -> None:
    assert first_mask(root, ignore_index=1) == [[0, 255], [255, 255]]
    assert first_mask(root, ignore_index=255) == [[0, 1], [255, 255]]


def test_an_ignored_id_needs_no_name(root: Path) -> None:
    write_pair(root, "val", "c", [[7, 0]])
    assert first_mask(root, "val", ignore_index=7) == [[255, 0]]


def test_a_reduced_zero_is_ignored_and_the_table_describes_the_ids_after_it(root: Path) -> None:
    write_pair(root, "train", "a", [[0, 1, 2], [10, 255, 1]])  # 10 - 1 = 9, the table's void
    assert first_mask(root, reduce_zero_label=True) == [[255, 0, 1], [255, 255, 0]]
    write_pair(root, "train", "a", [[9, 1]])
    with pytest.raises(MaskIdError, match=r"a\.png.*no class: \[9\]; expected 0\.\.2, 10, 255"):
        first_mask(root, reduce_zero_label=True)


def test_both_options_together_name_ids_of_the_files(root: Path) -> None:
    write_pair(root, "train", "a", [[0, 1, 2], [2, 255, 1]])
    found = first_mask(root, reduce_zero_label=True, ignore_index=2)
    assert found == [[255, 0, 255], [255, 255, 0]]


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({}, 10),  # ids 0, 1 and 9
        ({"ignore_index": 9}, 2),
        ({"ignore_index": 1}, 10),
        ({"reduce_zero_label": True}, 9),
        ({"reduce_zero_label": True, "ignore_index": 9}, 1),
    ],
)
def test_counting_classes_honours_the_options(
    root: Path, options: dict[str, int], classes: int
) -> None:
    (root / "classes.tsv").unlink()
    source = open_source(f"folder:{root}", **options)
    assert source.labels.num_classes == classes
    for split in source.splits.values():
        for index in range(len(split.names)):
            mask = split.mask(index)
            assert set(np.unique(mask)) <= {*range(classes), 255}


def test_masks_that_are_ignored_everywhere_have_no_classes(root: Path) -> None:
    (root / "classes.tsv").unlink()
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        write_pair(root, split, name, [[0, 255]])
    assert open_source(f"folder:{root}").labels.num_classes == 1
    with pytest.raises(InputError, match="every pixel is ignored"):
        open_source(f"folder:{root}", reduce_zero_label=True)


def test_a_bad_mask_does_not_hide_the_classes_of_the_others(root: Path) -> None:
    (root / "classes.tsv").unlink()
    (root / "annotations/train/b.png").write_bytes(b"no picture")
    source = open_source(f"folder:{root}")
    assert source.labels.num_classes == 10
    with pytest.raises(InputError, match=r"b\.png.*not a readable image"):
        source.split("train").mask(1)


@pytest.mark.parametrize("spec", ["synthetic:1+1", "ade20k:nowhere"])
@pytest.mark.parametrize("options", [{"ignore_index": 3}, {"reduce_zero_label": True}])
def test_data_whose_ids_have_a_fixed_meaning_takes_no_options(
    spec: str, options: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="fixed meaning"):
        open_source(spec, **options)


@pytest.mark.parametrize("ignore_index", [-1, 256])
def test_an_ignore_index_that_no_file_can_hold_is_a_usage_error(
    root: Path, ignore_index: int
) -> None:
    with pytest.raises(UsageError, match=f"ignore index {ignore_index} .*0..255"):
        open_source(f"folder:{root}", ignore_index=ignore_index)


# --- masks that are none

LOOKS = "looks like a colour or resized mask"


def test_a_colour_mask_is_called_one(root: Path) -> None:
    Image.new("RGB", (2, 2), (128, 0, 0)).save(root / "annotations/val/c.png")
    with pytest.raises(InputError, match=rf"c\.png.*mode RGB.*{LOOKS}"):
        first_mask(root, "val")


def test_a_smoothed_mask_is_called_one(root: Path) -> None:
    rows, columns = np.ogrid[:40, :40]
    ids = np.where((rows - 20) ** 2 + (columns - 20) ** 2 < 150, 255, 0).astype(np.uint8)
    smooth = Image.fromarray(ids).resize((97, 91), Image.Resampling.BICUBIC)
    smooth.save(root / "annotations/val/c.png")
    with pytest.raises(MaskIdError, match=rf"c\.png.*and \d+ more; expected 0..1, 9, 255.*{LOOKS}"):
        first_mask(root, "val")


def test_a_few_unknown_ids_are_a_matter_of_the_class_table(root: Path) -> None:
    write_pair(root, "val", "c", [[0, 3, 4, 5]])
    with pytest.raises(MaskIdError, match=r"no class: \[3, 4, 5\]; expected 0..1, 9, 255$"):
        first_mask(root, "val")


def test_without_a_table_gray_pictures_are_not_counted_as_classes(root: Path) -> None:
    (root / "classes.tsv").unlink()
    shades = [list(range(150))]
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        write_pair(root, split, name, shades)
    with pytest.raises(MaskIdError, match=rf"a\.png.*150 classes: it {LOOKS}.*classes.tsv"):
        open_source(f"folder:{root}")


def test_ids_above_255_are_errors_that_name_them(root: Path) -> None:
    deep = Image.fromarray(np.array([[0, 700]], dtype=np.uint16))
    deep.save(root / "annotations/val/c.png")
    with pytest.raises(MaskIdError, match=r"c\.png.*0\.\.700; expected 0..1, 9, 255"):
        first_mask(root, "val")


# --- identity of samples


def test_a_stamp_changes_with_either_file_and_with_the_meaning_of_ids(root: Path) -> None:
    def stamps(**options: int) -> tuple[str, str]:
        split = open_source(f"folder:{root}", **options).split("train")
        return split.stamp(0), split.stamp(1)

    before = stamps()
    assert stamps() == before
    assert len(set(before)) == 2
    assert not set(stamps(ignore_index=1)) & set(before)
    for name in ("images/train/a.jpg", "annotations/train/a.png"):
        status = (root / name).stat()
        os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        changed = stamps()
        assert changed[0] != before[0]
        assert changed[1] == before[1]
        before = changed
    (root / "classes.tsv").write_text(TABLE + "8\tsmoke\t0\t0\t0\tvoid\n")
    assert not set(stamps()) & set(before)


def test_a_stamp_of_a_missing_file_is_an_error(root: Path) -> None:
    split = open_source(f"folder:{root}").split("train")
    (root / "images/train/a.jpg").unlink()
    for method in (split.stamp, split.digest, split.encoded):
        with pytest.raises(InputError, match=r"cannot read .*a\.jpg"):
            method(0)


def test_a_digest_follows_the_content_wherever_it_lies(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    split = open_source(f"folder:{root}").split("train")
    image = (root / "images/train/a.jpg").read_bytes()
    mask = (root / "annotations/train/a.png").read_bytes()
    lengths = [len(part).to_bytes(8, "little") for part in (image, mask)]
    expected = hashlib.sha256(lengths[0] + image + lengths[1] + mask).hexdigest()
    assert split.digest(0) == expected
    copy = shutil.copytree(root, tmp_path_factory.mktemp("other") / "copy")
    os.utime(copy / "images/train/a.jpg", (1, 1))
    assert open_source(f"folder:{copy}").split("train").digest(0) == expected


def test_a_digest_tells_where_one_part_ends() -> None:
    assert content_digest(b"ab", b"c") != content_digest(b"a", b"bc") != content_digest(b"abc")


def test_synthetic_stamps_follow_the_code_and_digests_the_drawing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = open_source("synthetic:3+2").split("train")
    stamp, digest = split.stamp(1), split.digest(1)
    assert (stamp, digest) == (split.stamp(1), split.digest(1))
    assert split.stamp(0) != stamp
    assert split.digest(0) != digest != open_source("synthetic:3+2").split("val").digest(1)
    real = scenes.render_scene

    def darker(*args: object, **options: object) -> object:
        image, mask = real(*args, **options)
        return image // 2, mask

    scenes._revision.cache_clear()
    monkeypatch.setattr(scenes, "render_scene", darker)
    assert split.digest(1) != digest
    scenes._revision.cache_clear()
    monkeypatch.undo()
    assert split.digest(1) == digest
    monkeypatch.setattr(scenes.resources, "files", lambda _: Path(__file__).parent)
    scenes._code_version.cache_clear()
    assert split.stamp(1) != stamp
    scenes._code_version.cache_clear()


def test_splits_can_be_sent_to_another_process(root: Path) -> None:
    for spec in (f"folder:{root}", "synthetic:2+2"):
        split = open_source(spec).split("train")
        other = pickle.loads(pickle.dumps(split))
        assert other.names == split.names
        assert other.stamp(0) == split.stamp(0)
        np.testing.assert_array_equal(other.mask(0), split.mask(0))
