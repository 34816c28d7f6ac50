"""``hf:`` through the real `datasets` library, from copies written here; no network is used."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseg.errors import InputError, UsageError
from edgeseg.labels import ade20k_labels
from edgeseg_train.data import MaskIdError, Split, content_digest, open_source

datasets = pytest.importorskip("datasets")

SCENES, INSTANCES = "scene_parsing", "instance_segmentation"
COUNTS = {"train": 5, "validation": 3, "test": 2}


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def stored_ids(index: int, highest: int) -> NDArray[np.uint8]:
    ids = np.arange(12 * (14 + index), dtype=np.int64) * 7 % (highest + 1)
    return ids.reshape(12, -1).astype(np.uint8)


def row(config: str, split: str, index: int) -> dict[str, Any]:
    """One row with the features of scene_parse_150; its test split has no annotations."""
    ids = stored_ids(index, 150 if config == SCENES else 100)
    shade = 10 * index + len(split)
    image = np.full((*ids.shape, 3), shade, dtype=np.uint8)
    if config == INSTANCES:
        ids = np.dstack([ids, ids // 2 + 1, np.zeros_like(ids)])
    annotation = {"bytes": encoded(ids), "path": f"ADE_{index}.png"}
    found = {
        "image": {"bytes": encoded(image, "JPEG"), "path": f"ADE_{index}.jpg"},
        "annotation": None if split == "test" else annotation,
    }
    return found | ({"scene_category": index % 2} if config == SCENES else {})


def table(config: str, split: str) -> Any:
    features = {"image": datasets.Image(), "annotation": datasets.Image()}
    if config == SCENES:
        features["scene_category"] = datasets.ClassLabel(names=["beach", "castle"])
    rows = [row(config, split, index) for index in range(COUNTS[split])]
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def plain(masks: list[NDArray[np.uint8]], image: str = "image", mask: str = "label") -> Any:
    """Data without a name that we know."""
    rows = [
        {image: {"bytes": encoded(np.zeros((*m.shape[:2], 3), np.uint8)), "path": None},
         mask: {"bytes": encoded(m), "path": None}}
        for m in masks
    ]  # fmt: skip
    features = datasets.Features({image: datasets.Image(), mask: datasets.Image()})
    return datasets.Dataset.from_list(rows, features=features)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tried: list[object] = []

    def refuse(*arguments: object, **options: object) -> None:
        tried.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not tried


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's layout: CONFIG/SPLIT/0000.parquet."""
    root = tmp_path_factory.mktemp("conversion")
    for config in (SCENES, INSTANCES):
        for split in COUNTS:
            (root / config / split).mkdir(parents=True)
            table(config, split).to_parquet(root / config / split / "0000.parquet")
    return root


def truth(split: str, index: int) -> NDArray[np.uint8]:
    return (stored_ids(index, 150).astype(int) - 1).astype(np.uint8)  # 0 - 1 wraps to 255


def assert_is_scene_parsing(split: Split, stored: str) -> None:
    assert split.names == tuple(f"{stored}-{i:05d}" for i in range(COUNTS[stored]))
    for index in range(COUNTS[stored]):
        expected = row(SCENES, stored, index)
        assert split.encoded(index) == expected["image"]["bytes"]
        decoded = np.asarray(Image.open(io.BytesIO(expected["image"]["bytes"])))
        np.testing.assert_array_equal(split.image(index), decoded)
        np.testing.assert_array_equal(split.mask(index), truth(stored, index))
        assert split.mask(index).dtype == np.uint8
        parts = (expected[column]["bytes"] for column in ("image", "annotation"))
        assert split.digest(index) == content_digest(*parts)


@pytest.mark.parametrize("suffix", ["", ":scene_parsing", "/scene_parsing"])
def test_the_hubs_parquet_layout_is_ade20k(conversion: Path, suffix: str) -> None:
    source = open_source(f"hf:{conversion}{suffix}")
    assert source.labels == ade20k_labels()
    assert source.notes == ()
    assert set(source.splits) == {"train", "val"}
    assert_is_scene_parsing(source.split("train"), "train")
    assert_is_scene_parsing(source.split("val"), "validation")


# From CSAILVision/placeschallenge, instancesegmentation/instanceInfo100_train.txt.
INSTANCE_NAMES = {1: "bed", 2: "windowpane", 4: "person", 9: "car", 50: "bus", 66: "ship",
                  83: "bicycle", 90: "traffic light", 99: "clock", 100: "flag"}  # fmt: skip


def test_instances_become_the_classes_of_the_150_by_their_red_channel(conversion: Path) -> None:
    source = open_source(f"hf:{conversion}:{INSTANCES}")
    assert source.labels == ade20k_labels()
    stored, mask = stored_ids(0, 100), source.split("val").mask(0)
    assert mask.shape == stored.shape
    assert (mask[stored == 0] == 255).all()
    seen = [int(mask[stored == i][0]) for i in range(1, 101)]
    assert seen == sorted(set(seen))
    for instance_id, name in INSTANCE_NAMES.items():
        assert source.labels.names[seen[instance_id - 1]] == name
    for stuff in ("wall", "sky", "floor", "tree", "road", "grass", "water"):
        assert source.labels.names.index(stuff) not in seen


def test_scene_parsing_takes_no_options_for_ids(conversion: Path) -> None:
    with pytest.raises(UsageError, match="fixed meaning"):
        open_source(f"hf:{conversion}", reduce_zero_label=True)


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    splits = {split: table(SCENES, split) for split in COUNTS}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "all")
    source = open_source(f"hf:{tmp_path / 'all'}")
    assert_is_scene_parsing(source.split("train"), "train")
    assert_is_scene_parsing(source.split("val"), "validation")
    splits["train"].save_to_disk(tmp_path / "one")
    source = open_source(f"hf:{tmp_path / 'one'}")
    assert set(source.splits) == {"train"}
    assert_is_scene_parsing(source.split("train"), "train")


def test_a_path_may_hold_a_colon(tmp_path: Path) -> None:
    root = tmp_path / "run:7"
    table(SCENES, "train").save_to_disk(root / SCENES)
    for spec in (f"hf:{root}/{SCENES}", f"hf:{root}:{SCENES}"):
        assert_is_scene_parsing(open_source(spec).split("train"), "train")


# --- other data


def two_splits(root: Path, names: tuple[str, str] = ("train", "validation"), **columns: str) -> str:
    masks = [np.array([[0, 1], [3, 255]], np.uint8), np.array([[2, 2], [1, 0]], np.uint8)]
    for name in names:
        (root / name).mkdir(parents=True)
        plain(masks, **columns).to_parquet(root / name / "part.parquet")
    return f"hf:{root}"


@pytest.mark.parametrize("mask", ["annotation", "label", "mask", "segmentation_mask"])
def test_other_data_has_its_ids_as_classes(tmp_path: Path, mask: str) -> None:
    source = open_source(two_splits(tmp_path / "data", mask=mask))
    assert source.labels.names == ("class 0", "class 1", "class 2", "class 3")
    np.testing.assert_array_equal(source.split("train").mask(0), [[0, 1], [3, 255]])


def test_other_data_takes_the_options_for_ids_and_a_class_table(tmp_path: Path) -> None:
    spec = two_splits(tmp_path / "data")
    reduced = open_source(spec, reduce_zero_label=True)
    assert reduced.labels.num_classes == 3
    np.testing.assert_array_equal(reduced.split("val").mask(0), [[255, 0], [2, 255]])
    ignored = open_source(spec, ignore_index=3)
    assert ignored.labels.num_classes == 3
    assert ignored.split("val").mask(0).tolist() == [[0, 1], [255, 255]]
    (tmp_path / "data/classes.tsv").write_text(
        "id\tname\tr\tg\tb\n0\tsky\t1\t2\t3\n1\tsea\t4\t5\t6\n"
    )
    named = open_source(spec)
    assert named.labels.names == ("sky", "sea")
    with pytest.raises(MaskIdError, match=r"train-00000 \(mask\).*no class: \[3\]"):
        named.split("train").mask(0)


def test_a_test_split_with_masks_stands_in_for_val_and_is_named(tmp_path: Path) -> None:
    source = open_source(two_splits(tmp_path / "data", ("train", "test")))
    assert source.notes == ("val is the data set's split 'test'",)
    assert source.split("val").names == ("test-00000", "test-00001")


def test_masks_that_are_no_ids_are_errors_that_name_the_row(tmp_path: Path) -> None:
    colour = np.zeros((2, 2, 3), np.uint8)
    datasets.DatasetDict(
        train=plain([np.zeros((2, 2), np.uint8), colour])
    ).save_to_disk(tmp_path / "data")  # fmt: skip
    split = open_source(f"hf:{tmp_path / 'data'}").split("train")
    assert split.mask(0).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(InputError, match=r"train-00001 \(mask\).*looks like a colour"):
        split.mask(1)


def test_rows_may_hold_paths_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(encoded(np.array([[0, 1]], np.uint8)))
    (tmp_path / "image.png").write_bytes(encoded(np.zeros((1, 2, 3), np.uint8)))
    paths = {name: str(tmp_path / f"{name}.png") for name in ("image", "mask")}
    rows = [paths, {"image": str(tmp_path / "none.png"), "mask": None}]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    (tmp_path / "data/train").mkdir(parents=True)
    saved = datasets.Dataset.from_list(rows, features=features)
    with (tmp_path / "data/train/rows.arrow").open("wb") as file:
        writer = datasets.arrow_writer.ArrowWriter(stream=file, features=features)
        writer.write_table(saved.data.table)
        writer.finalize()
    split = open_source(f"hf:{tmp_path / 'data'}").split("train")
    assert split.mask(0).tolist() == [[0, 1]]
    assert split.encoded(0) == (tmp_path / "image.png").read_bytes()
    with pytest.raises(InputError, match=r"train-00001 \(image\): cannot read .*none\.png"):
        split.image(1)
    for method in (split.mask, split.digest):
        with pytest.raises(InputError, match=r"train-00001 \((mask|image)\)"):
            method(1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "photo"}, "columns .*'photo'.*expected one of image"),
        ({"mask": "truth"}, "columns .*'truth'.*expected one of annotation, label"),
    ],
)
def test_missing_columns_are_named(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(two_splits(tmp_path / "data", **columns))


def test_a_column_of_numbers_holds_no_masks(tmp_path: Path) -> None:
    data = plain([np.zeros((2, 2), np.uint8)] * 2).remove_columns("label")
    data.add_column("label", [0, 1]).save_to_disk(tmp_path / "data")
    with pytest.raises(InputError, match=r"column label .* holds no images"):
        open_source(f"hf:{tmp_path / 'data'}")


def test_splits_of_other_names_and_several_configurations_are_named(tmp_path: Path) -> None:
    empty = plain([np.zeros((2, 2), np.uint8)])
    datasets.DatasetDict(odd=empty, other=empty).save_to_disk(tmp_path / "odd")
    with pytest.raises(InputError, match=r"splits \['odd', 'other'\]; expected train"):
        open_source(f"hf:{tmp_path / 'odd'}")
    two_splits(tmp_path / "both/day")
    spec = two_splits(tmp_path / "both/night")
    with pytest.raises(InputError, match=r"configurations day, night; add one: hf:.*both:day"):
        open_source(f"hf:{tmp_path / 'both'}")
    assert open_source(f"hf:{tmp_path / 'both'}:night").labels == open_source(spec).labels


# --- identity, processes and threads


def test_stamps_are_stable_and_follow_the_files_and_the_options(tmp_path: Path) -> None:
    def stamps(**options: int) -> tuple[str, str]:
        split = open_source(spec, **options).split("train")
        return split.stamp(0), split.stamp(1)

    spec = two_splits(tmp_path / "data")
    before = stamps()
    assert stamps() == before
    assert len(set(before)) == 2
    assert not set(stamps(ignore_index=1)) & set(before)
    other = plain([np.array([[3, 3]], np.uint8)] * 2)
    other.to_parquet(tmp_path / "data/train/part.parquet")
    assert not set(stamps()) & set(before)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_split_is_read_by_several_processes(conversion: Path, method: str) -> None:
    split = open_source(f"hf:{conversion}").split("train")
    images = [split.image(index) for index in range(5)]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        for index, mask in enumerate(pool.map(split.mask, range(5))):
            np.testing.assert_array_equal(mask, truth("train", index))
        for found, expected in zip(pool.map(split.image, range(5)), images, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert pickle.loads(pickle.dumps(split)).stamp(3) == split.stamp(3)


def test_a_split_is_read_by_several_threads(conversion: Path) -> None:
    split = open_source(f"hf:{conversion}").split("train")
    indices = [index % 5 for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for index, mask in zip(indices, pool.map(split.mask, indices), strict=True):
            np.testing.assert_array_equal(mask, truth("train", index))


# --- the hub itself


class FakeHub:
    """Answers in the place of ``load_dataset`` and ``snapshot_download``."""

    def __init__(self, folder: Path, error: Exception, *, cached: bool = True) -> None:
        self.folder, self.error, self.cached = folder, error, cached
        self.real = datasets.load_dataset
        self.asked: list[tuple[str, object]] = []

    def load_dataset(self, name: str, config: str | None = None, **options: object) -> object:
        if Path(name).exists():
            return self.real(name, config, **options)
        self.asked.append((name, config))
        raise self.error

    def snapshot_download(self, name: str, **options: object) -> str:
        self.asked.append((str(options["revision"]), options["allow_patterns"]))
        if options["local_files_only"] and not self.cached:
            raise FileNotFoundError("nothing here")
        return str(self.folder)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets, "load_dataset", self.load_dataset)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)


SCRIPT = RuntimeError("Dataset scripts are no longer supported, but found scene_parse_150.py")
OTHER_CACHED = ValueError("Couldn't find cache for x for config 'y'")
OFFLINE = ConnectionError("Couldn't reach 'x' on the Hub (OfflineModeIsEnabled)")
PARQUET = "refs/convert/parquet"


@pytest.mark.parametrize("error", [SCRIPT, OTHER_CACHED])
@pytest.mark.parametrize(
    ("spec", "config"),
    [
        ("hf", SCENES),
        ("hf:", SCENES),
        ("hf:zhoubolei/scene_parse_150", SCENES),
        (f"hf:zhoubolei/scene_parse_150:{INSTANCES}", INSTANCES),
    ],
)
def test_what_needs_a_script_comes_from_the_hubs_conversion(
    conversion: Path, monkeypatch: pytest.MonkeyPatch, spec: str, config: str, error: Exception
) -> None:
    hub = FakeHub(conversion, error)
    hub.install(monkeypatch)
    source = open_source(spec)
    assert hub.asked == [("zhoubolei/scene_parse_150", config), (PARQUET, f"{config}/*")]
    assert source.labels == ade20k_labels()
    assert source.notes == ()
    assert len(source.split("train").names) == 5


def test_without_a_network_an_earlier_visit_is_reused_and_said(
    conversion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeHub(conversion, OFFLINE).install(monkeypatch)
    source = open_source("hf:")
    assert_is_scene_parsing(source.split("train"), "train")
    assert any("cannot be reached; reading what was fetched" in note for note in source.notes)


def test_a_partial_conversion_is_said(
    tmp_path: Path, conversion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ours, theirs in (("train", "partial-train"), ("validation", "validation")):
        folder = tmp_path / "hub" / INSTANCES / theirs
        folder.mkdir(parents=True)
        (folder / "0000.parquet").symlink_to(conversion / INSTANCES / ours / "0000.parquet")
    FakeHub(tmp_path / "hub", SCRIPT).install(monkeypatch)
    source = open_source(f"hf:zhoubolei/scene_parse_150:{INSTANCES}")
    assert len(source.split("train").names) == 5
    assert any("only a part" in note for note in source.notes)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("hf:", OFFLINE, "'zhoubolei/scene_parse_150'.*cannot be fetched.*local copy: hf:DIR"),
        ("hf:some/name", OFFLINE, "'some/name' is no folder here"),
        (
            "hf:some/name",
            ValueError("odd\nthing"),
            "cannot load data 'some/name': ValueError: odd$",
        ),
        ("hf:some/name", RuntimeError("broken"), "RuntimeError: broken"),
        ("hf:zhoubolei/scene_parse_150:none", SCRIPT, "no configuration 'none'"),
    ],
)
def test_what_the_hub_cannot_give_is_one_line(
    conversion: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: str,
    error: Exception,
    message: str,
) -> None:
    FakeHub(conversion, error, cached=False).install(monkeypatch)
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_a_full_disk_stays_one(conversion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(conversion, OSError(28, "No space left on device")).install(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        open_source("hf:some/name")


@pytest.mark.parametrize("spec", ["hf:/no/such/folder", "hf:a/b/c", "hf:../x", "hf:~/x"])
def test_what_is_neither_folder_nor_name_is_not_asked_for(spec: str) -> None:
    with pytest.raises(InputError, match="no folder here and no name on the hub"):
        open_source(spec)


def test_a_file_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file; give the folder"):
        open_source(f"hf:{tmp_path / 'a.parquet'}")
    with pytest.raises(InputError, match="cannot load data"):
        open_source(f"hf:{tmp_path}")


def test_nothing_is_written_on_stderr(conversion: Path, tmp_path: Path) -> None:
    code = f"from edgeseg_train.data import open_source; print(open_source('hf:{conversion}').spec)"
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PATH": "/usr/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == f"hf:{conversion}\n"
    assert done.stderr == ""


def test_without_the_library_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["datasets"] = None
from edgeseg.errors import DeviceError
from edgeseg_train.data import open_source
try:
    open_source("hf:")
except DeviceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "edgeseg[' in done.stdout
