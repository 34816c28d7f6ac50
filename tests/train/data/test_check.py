"""The check's numbers against counts made here, and every fault it must find."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from pathlib import Path
from statistics import median_low

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg.cli.output import Output
from edgeseg.errors import InputError
from edgeseg_train.data import DataSource, open_source
from edgeseg_train.data.check import check_source, run_check
from edgeseg_train.data.check_picture import PICTURE, write_check_picture
from edgeseg_train.data.check_report import CheckReport

CLASSES, VOID = 5, 9
TABLE = "id\tname\tr\tg\tb\trole\n" + "".join(
    f"{i}\t{name}\t{50 * i}\t{255 - 50 * i}\t{40 * i + 9}\tclass\n"
    for i, name in enumerate(("sky", "road", "tree", "car", "moon"))
)
TABLE += f"{VOID}\tvoid\t0\t0\t0\tvoid\n"


def write_pair(
    root: Path, split: str, name: str, mask: NDArray[np.uint8], *, seed: int | None = None
) -> None:
    for folder in ("images", "annotations"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(name.encode()) if seed is None else seed)
    picture = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    Image.fromarray(picture).save(root / "images" / split / f"{name}.png")
    Image.fromarray(mask).save(root / "annotations" / split / f"{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sound data: classes 0 .. 3 in train, 0 .. 1 in val, class 4 nowhere, some void."""
    rng = np.random.default_rng(3)
    ids = np.array([0, 1, 2, 3, VOID, 255], dtype=np.uint8)
    for i, size in enumerate([(20, 30), (20, 30), (40, 16), (7, 9), (20, 30)]):
        write_pair(tmp_path, "train", f"t{i}", ids[rng.integers(0, 3 + i % 4, size)])
    for i, size in enumerate([(12, 10), (30, 31)]):
        write_pair(tmp_path, "val", f"v{i}", ids[rng.integers(0, 2, size)])
    (tmp_path / "classes.tsv").write_text(TABLE)
    return tmp_path


def checked(root: Path) -> CheckReport:
    return check_source(open_source(f"folder:{root}"), lambda _: None)


def test_the_numbers_are_those_of_a_count_by_hand(root: Path) -> None:
    report = checked(root)
    assert report.problems == ()
    for split, found in report.splits.items():
        masks = [
            np.asarray(Image.open(p)) for p in sorted((root / "annotations" / split).iterdir())
        ]
        pixels = [sum(int((m == c).sum()) for m in masks) for c in range(CLASSES)]
        ignored = sum(int(((m == VOID) | (m == 255)).sum()) for m in masks)
        area = sum(m.size for m in masks)
        assert found.samples == len(masks)
        assert found.pixels.tolist() == pixels
        assert found.images.tolist() == [sum(bool((m == c).any()) for m in masks) for c in range(5)]
        assert found.ignored == ignored
        assert found.ignored_share == pytest.approx(ignored / area)
        assert found.shares == pytest.approx([n / sum(pixels) for n in pixels])
        sizes = [m.shape for m in masks]
        assert found.sizes is not None
        assert found.sizes.smallest == min(sizes, key=lambda s: s[0] * s[1])
        assert found.sizes.largest == max(sizes, key=lambda s: s[0] * s[1])
        heights, widths = zip(*sizes, strict=True)
        assert found.sizes.median == (median_low(heights), median_low(widths))
        assert found.sizes.different == len(set(sizes))
        assert found.sizes.commonest_images == max(Counter(sizes).values())
    assert report.splits["train"].sizes.commonest == (20, 30)


def test_progress_counts_every_sample_once_in_this_thread(root: Path) -> None:
    calls: list[tuple[int, threading.Thread]] = []
    check_source(
        open_source(f"folder:{root}"), lambda n: calls.append((n, threading.current_thread()))
    )
    assert calls == [(1, threading.main_thread())] * 7


def test_what_is_unusual_but_no_fault_is_a_warning(root: Path) -> None:
    for kind in ("images", "annotations"):
        shutil.copy(root / kind / "train/t1.png", root / kind / "val/again.png")
    write_pair(root, "train", "blank", np.full((5, 5), VOID, np.uint8))
    report = checked(root)
    assert report.problems == ()
    assert report.duplicates == (("t1", "again"),)
    assert report.splits["train"].unlabelled == ("blank",)
    warnings = "\n".join(report.warnings)
    assert "1 val sample with the same content as train samples" in warnings
    assert "again = t1" in warnings
    assert "1 train mask without any labelled pixel: blank" in warnings
    assert "1 of 5 classes never occur: moon" in warnings


def test_classes_of_one_split_only_are_warned_about(root: Path) -> None:
    write_pair(root, "val", "v9", np.full((5, 5), 4, np.uint8))
    warnings = checked(root).warnings
    assert any(w.startswith("1 class of val not in train: moon") for w in warnings)
    assert any(w.startswith("2 classes of train not in val: tree, car") for w in warnings)
    assert not any("never occur" in w for w in warnings)


def test_the_same_picture_with_another_mask_or_encoded_anew_is_a_duplicate(root: Path) -> None:
    with Image.open(root / "images/train/t1.png") as picture:
        picture.save(root / "images/val/again.bmp")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / "annotations/val/again.png")
    assert checked(root).duplicates == (("t1", "again"),)


def spoil(root: Path) -> None:
    """Add one sample per fault; those of ``root`` stay sound."""
    good = np.zeros((8, 6), np.uint8)
    for name in ("f_cut", "f_none", "f_colour", "f_ids", "f_size", "f_both", "f_mask"):
        write_pair(root, "train", name, good)
    images, masks = root / "images/train", root / "annotations/train"
    data = (images / "f_cut.png").read_bytes()
    (images / "f_cut.png").write_bytes(data[: len(data) // 2])
    (images / "f_none.png").write_bytes(b"this is no picture")
    (masks / "f_mask.png").write_bytes(b"nor this")
    Image.new("RGB", (6, 8), (128, 0, 0)).save(masks / "f_colour.png")
    Image.fromarray(np.array([[0, 7, 8, 0, 0, 0]] * 8, np.uint8)).save(masks / "f_ids.png")
    Image.fromarray(np.zeros((8, 5), np.uint8)).save(masks / "f_size.png")
    (images / "f_both.png").write_bytes(b"no picture")
    Image.fromarray(np.full((8, 6), 77, np.uint8)).save(masks / "f_both.png")


EXPECTED = [  # sample, kind, words of the message
    ("f_both", "unreadable", ["f_both.png", "not a readable image"]),
    ("f_both", "ids", ["f_both.png", "[77]", "0..4, 9, 255"]),
    ("f_colour", "unreadable", ["f_colour.png", "RGB", "looks like a colour or resized mask"]),
    ("f_cut", "unreadable", ["f_cut.png", "damaged"]),
    ("f_ids", "ids", ["f_ids.png", "[7, 8]"]),
    ("f_mask", "unreadable", ["f_mask.png", "not a readable image"]),
    ("f_none", "unreadable", ["f_none.png", "not a readable image"]),
    ("f_size", "size", ["f_size", "8x6", "8x5"]),
]


def test_every_fault_of_every_sample_is_listed(root: Path) -> None:
    before = checked(root)
    spoil(root)
    report = checked(root)
    listed = [(p.sample, p.kind) for p in report.problems]
    assert listed == [case[:2] for case in EXPECTED]
    assert {p.split for p in report.problems} == {"train"}
    for problem, (_, _, words) in zip(report.problems, EXPECTED, strict=True):
        assert all(word in problem.message for word in words), problem.message
        assert "\n" not in problem.message
    # The sound masks are counted as before; three of the added ones are readable, all sky.
    added = report.splits["train"].pixels - before.splits["train"].pixels
    assert added.tolist() == [8 * 6 + 8 * 6 + 8 * 5, 0, 0, 0, 0]


def test_files_that_vanish_while_it_reads_are_problems_too(root: Path) -> None:
    source = open_source(f"folder:{root}")
    (root / "images/val/v0.png").unlink()
    report = check_source(source, lambda _: None)
    assert [(p.split, p.sample, p.kind) for p in report.problems] == [("val", "v0", "unreadable")]


def test_bugs_are_not_taken_for_bad_data(root: Path) -> None:
    source = open_source(f"folder:{root}")

    class Broken:
        names = ("a",)

        def image(self, index: int) -> None:
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        check_source(DataSource("x", source.labels, {"val": Broken()}), lambda _: None)


# --- the command's part


def test_sound_data_ends_with_0_and_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(open_source(f"folder:{root}"), None, Output()) == 0
    printed = capsys.readouterr()
    assert "7 samples checked, no problems" in printed.out
    assert "20x30 (3)" in printed.out
    assert "warning: 1 of 5 classes never occur: moon" in printed.out
    rows = [line.split() for line in printed.out.splitlines()]
    assert next(row[0] for row in rows if "road" in row) == "1"
    assert not any("moon" in row and "%" in " ".join(row) for row in rows)
    assert printed.err == ""


def test_faults_are_printed_and_end_with_3(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(root)
    assert run_check(open_source(f"folder:{root}"), None, Output()) == InputError.exit_code == 3
    printed = capsys.readouterr()
    assert "14 samples checked, 8 problems" in printed.out
    assert "f_cut.png" in printed.out
    assert printed.err == f"edgeseg: error: 8 problems in data 'folder:{root}'\n"


def test_json_is_one_document_also_with_faults(
    root: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(root)
    out = tmp_path_factory.mktemp("out") / "new" / "checked"
    source = open_source(f"folder:{root}")
    assert run_check(source, out, Output(as_json=True)) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["data"] == f"folder:{root}"
    assert document["passed"] is False
    assert document["picture"] == str(out / PICTURE)
    assert [p["sample"] for p in document["problems"]] == [p.sample for p in checked(root).problems]
    train = document["splits"]["train"]
    assert [c["name"] for c in train["classes"]] == ["sky", "road", "tree", "car", "moon"]
    assert train["never_seen"] == ["moon"]
    assert sum(c["share"] for c in train["classes"]) == pytest.approx(1)
    assert [file.name for file in out.iterdir()] == [PICTURE]


def test_many_problems_are_cut_in_the_text_only(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(50):
        write_pair(root, "val", f"b{i:02}", np.full((4, 4), 100 + i, np.uint8))
    source = open_source(f"folder:{root}")
    assert run_check(source, None, Output()) == 3
    assert "and 10 more problems; --json lists all" in capsys.readouterr().out
    assert run_check(source, None, Output(as_json=True)) == 3
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 50


def test_quiet_leaves_only_the_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(root)
    run_check(open_source(f"folder:{root}"), None, Output(quiet=True))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "8 problems" in printed.err


# --- the picture


def drawn_picture(root: Path, folder: Path, per_split: int = 8) -> NDArray[np.uint8]:
    path = write_check_picture(open_source(f"folder:{root}"), folder, per_split)
    assert path == folder / PICTURE
    return np.asarray(Image.open(path))


def has(sheet: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    return bool((sheet == color).all(axis=2).any())


def test_the_picture_shows_image_mask_and_legend(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.rmtree(root / "images/val")
    shutil.rmtree(root / "images/train")
    shutil.rmtree(root / "annotations/train")
    mask = np.full((120, 160), 1, np.uint8)
    mask[:, 80:] = VOID
    write_pair(root, "train", "half", mask)
    Image.new("RGB", (160, 120), (200, 100, 0)).save(root / "images/train/half.png")
    sheet = drawn_picture(root, tmp_path_factory.mktemp("out"))
    labels = open_source(f"folder:{root}").labels
    road, ignored, picture = labels.palette[1], (0, 0, 0), (200, 100, 0)
    middle = 22 + 120  # title, half the height of a picture
    image, truth, overlay = (328 * column for column in range(3))
    for left, colors in (
        (image, (picture, picture)),
        (truth, (road, ignored)),
        (overlay, (tuple((a + b) // 2 for a, b in zip(picture, road, strict=True)), picture)),
    ):
        for x, color in ((left + 60, colors[0]), (left + 260, colors[1])):
            assert np.abs(sheet[middle, x].astype(int) - color).max() <= 1
    legend = sheet[:, 3 * 328 :]
    assert has(legend, road)
    assert has(legend, ignored)
    assert not any(has(legend, labels.palette[i]) for i in (0, 2, 3, 4))


def test_the_picture_draws_at_most_eight_of_each_split_and_skips_the_bad(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out")
    few = drawn_picture(root, out, per_split=1).shape[0]
    shutil.rmtree(root / "images/val")
    for i in range(20):
        write_pair(root, "train", f"w{i:02}", np.zeros((24, 32), np.uint8))
    assert drawn_picture(root, out, per_split=8).shape[0] <= 8 * (240 + 22 + 8)
    for path in (root / "images/train").iterdir():
        path.write_bytes(b"")
    assert few > 0
    assert write_check_picture(open_source(f"folder:{root}"), out) is None


@pytest.mark.parametrize("size", [(3, 900), (900, 3), (1, 1)])
def test_the_picture_takes_any_shape_and_many_classes_with_long_names(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    rows = (f"{i}\t{'long name ' * 9}{i}\t{i}\t{i}\t{i}" for i in range(60))
    (tmp_path / "classes.tsv").write_text("id\tname\tr\tg\tb\n" + "\n".join(rows))
    mask = np.arange(size[0] * size[1]).reshape(size) % 60
    write_pair(tmp_path, "train", "a", mask.astype(np.uint8))
    out = tmp_path / "out"
    out.mkdir()
    sheet = drawn_picture(tmp_path, out)
    assert sheet.shape[1] < 1500
    assert (sheet[:, -3:] == 255).all()  # nothing runs over the right edge


def test_synthetic_scenes_pass() -> None:
    source = open_source("synthetic:14+3")
    report = check_source(source, lambda _: None)
    assert report.problems == report.duplicates == ()
    pixels = sum(np.bincount(source.split("val").mask(i).ravel(), minlength=150) for i in range(3))
    assert report.splits["val"].pixels.tolist() == pixels.tolist()
