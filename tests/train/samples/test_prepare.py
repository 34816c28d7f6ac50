"""Prepared samples: as a direct resize gives them, stored once, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL import Image

from edgeseg.errors import InputError, ResourceError
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import MaskIdError, open_source
from edgeseg_train.samples import store
from edgeseg_train.samples.prepare import PreparedSplit, default_cache, prepare

SIZE = (12, 20)
FIT = Preprocessing(height=12, width=20)
CLASSES = 4
FORK = multiprocessing.get_context("fork")


@dataclass
class Scenes:
    """Random pictures of different sizes; ``faults`` (index: message) make some unreadable."""

    count: int = 7
    seed: str = "a"
    faults: dict[int, str] = field(default_factory=dict)
    log: Path | None = None  # one line per picture that was read, by any process
    pause: float = 0
    mask_reads: list[int] = field(default_factory=list)
    image_reads: list[int] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"scene-{i}" for i in range(self.count))

    def stamp(self, index: int) -> str:
        return f"{self.seed}-{index}"

    def digest(self, index: int) -> str:
        return hashlib.sha256(self.stamp(index).encode()).hexdigest()

    def image(self, index: int) -> np.ndarray:
        self.image_reads.append(index)
        time.sleep(self.pause)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{index}\n")
        if index in self.faults:
            raise InputError(self.faults[index])
        return self._random(index).integers(0, 256, (*self._size(index), 3), dtype=np.uint8)

    def mask(self, index: int) -> np.ndarray:
        self.mask_reads.append(index)
        # Class 3 and the rest occur in some pictures only.
        ids = np.array([0, 1, 255] if index % 2 else [0, 2, 3, 255], dtype=np.uint8)
        return self._random(index).choice(ids, self._size(index))

    def _size(self, index: int) -> tuple[int, int]:
        return SIZE if index == 1 else (9 + index % 8, 30 - index % 8)

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng([index, *self.seed.encode()])


class Mismatched(Scenes):
    """Sample 2 has a mask of another size."""

    def mask(self, index: int) -> np.ndarray:
        return super().mask(index)[: 5 if index == 2 else None]


class WrongIds(Scenes):
    """Sample 3 has an id that is no class."""

    def mask(self, index: int) -> np.ndarray:
        mask = super().mask(index)
        mask[0, 0] = CLASSES if index == 3 else 0
        return mask


def prepared(split: Scenes, cache: Path | None, **options: object) -> PreparedSplit:
    return prepare(split, FIT, CLASSES, **{"keep_truth": True, "cache": cache, **options})


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def assert_is_scenes(samples: PreparedSplit, split: Scenes) -> None:
    """Compare with Pillow itself."""
    assert len(samples) == len(samples.names)
    for i, name in enumerate(samples.names):
        index = split.names.index(name)
        image, mask = Image.fromarray(split.image(index)), Image.fromarray(split.mask(index))
        expected = np.asarray(image.resize(SIZE[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(samples[i].image, expected)
        nearest = np.asarray(mask.resize(SIZE[::-1], Image.Resampling.NEAREST))
        np.testing.assert_array_equal(samples[i].mask, nearest)
        np.testing.assert_array_equal(samples[i].truth, np.asarray(mask))
        assert all(array.dtype == np.uint8 for array in samples[i])
    with pytest.raises(IndexError):
        samples[len(samples)]


def assert_same(one: PreparedSplit, other: PreparedSplit) -> None:
    assert one.names == other.names
    assert one.skipped == other.skipped
    assert one.fingerprint == other.fingerprint
    np.testing.assert_array_equal(one.counts.pixels, other.counts.pixels)
    np.testing.assert_array_equal(
        one.counts.pixels_of_images_with, other.counts.pixels_of_images_with
    )
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.image, right.image)
        np.testing.assert_array_equal(left.mask, right.mask)
        np.testing.assert_array_equal(left.truth, right.truth)


def test_samples_are_pillows_resize_stored_or_not(tmp_path: Path) -> None:
    stored, reused = prepared(Scenes(), tmp_path), prepared(Scenes(), tmp_path)
    decoded = prepared(Scenes(), None)
    for samples in (stored, reused, decoded):
        assert_is_scenes(samples, Scenes())
        assert samples.size == SIZE
        assert samples.skipped == ()
        assert_same(samples, stored)
    assert stored.cache == reused.cache == folders(tmp_path)[0]
    assert decoded.cache is None


def test_the_stored_arrays_are_plain_numpy_files(tmp_path: Path) -> None:
    samples = prepared(Scenes(), tmp_path)
    assert samples.cache is not None
    images, masks, truths = (
        np.load(samples.cache / f"{name}.npy") for name in ("images", "masks", "truths")
    )
    np.testing.assert_array_equal(images, [sample.image for sample in samples])
    np.testing.assert_array_equal(masks, [sample.mask for sample in samples])
    np.testing.assert_array_equal(truths, np.concatenate([s.truth.ravel() for s in samples]))
    assert json.loads((samples.cache / "index.json").read_text())["index"]["size"] == list(SIZE)


def test_without_truths_none_are_stored(tmp_path: Path) -> None:
    samples = prepared(Scenes(), tmp_path, keep_truth=False)
    assert samples[0].truth is None
    assert samples.cache is not None
    assert not (samples.cache / "truths.npy").exists()
    assert prepared(Scenes(), None, keep_truth=False)[0].truth is None


def test_counts_are_those_of_the_masks_at_network_size(tmp_path: Path) -> None:
    samples = prepared(Scenes(), tmp_path)
    masks = np.stack([sample.mask for sample in samples])
    labelled = (masks != 255).sum(axis=(1, 2))
    for class_id in range(CLASSES):
        assert samples.counts.pixels[class_id] == (masks == class_id).sum()
        with_it = (masks == class_id).any(axis=(1, 2))
        assert samples.counts.pixels_of_images_with[class_id] == labelled[with_it].sum()
    assert samples.counts.pixels.dtype == np.int64


def test_the_second_time_nothing_is_read(tmp_path: Path) -> None:
    notes: list[str] = []
    steps: list[int] = []
    prepared(Scenes(), tmp_path, note=notes.append, progress=steps.append)
    assert steps == [1] * 7
    assert len(notes) == 1
    assert str(tmp_path) in notes[0]
    again = Scenes()
    prepared(again, tmp_path, note=notes.append, progress=steps.append)
    assert again.image_reads == again.mask_reads == []
    assert len(steps) == 7
    assert len(notes) == 2
    assert "reused" in notes[1]


def test_without_a_cache_pictures_are_read_when_asked_for() -> None:
    split = Scenes()
    samples = prepared(split, None)
    assert sorted(split.mask_reads) == list(range(7))
    assert split.image_reads == []
    _ = samples[3]
    assert split.image_reads == [3]


def test_the_fingerprint_is_that_of_names_and_contents() -> None:
    fingerprint = prepared(Scenes(), None).fingerprint
    assert len(fingerprint) == 64
    assert (
        prepare(Scenes(), FIT.at((8, 8)), 9, keep_truth=False, cache=None).fingerprint
        == fingerprint
    )
    assert prepared(Scenes(seed="b"), None).fingerprint != fingerprint
    assert prepared(Scenes(count=6), None).fingerprint != fingerprint


def test_whatever_decides_the_content_has_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in (Scenes(), Scenes(seed="b"), Scenes(count=6)):
        prepared(split, tmp_path)
    prepared(Scenes(), tmp_path, keep_truth=False)
    prepare(Scenes(), FIT.at((12, 21)), CLASSES, keep_truth=True, cache=tmp_path)
    prepare(Scenes(), FIT, CLASSES + 1, keep_truth=True, cache=tmp_path)
    assert len(folders(tmp_path)) == 6
    monkeypatch.setattr(PIL, "__version__", "99.0")
    prepared(Scenes(), tmp_path)
    assert len(folders(tmp_path)) == 7


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "truths.npy", "index.json"])
@pytest.mark.parametrize("damage", [Path.unlink, shorten, overwrite])
def test_a_damaged_cache_is_prepared_again(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    first = prepared(Scenes(), tmp_path)
    assert first.cache is not None
    damage(first.cache / name)
    notes: list[str] = []
    samples = prepared(Scenes(), tmp_path, note=notes.append)
    assert_is_scenes(samples, Scenes())
    assert sum("is damaged" in note for note in notes) == 1
    again = Scenes()
    assert_same(prepared(again, tmp_path), samples)
    assert again.mask_reads == []


def test_an_index_whose_content_was_changed_is_not_trusted(tmp_path: Path) -> None:
    first = prepared(Scenes(), tmp_path)
    assert first.cache is not None
    index = first.cache / "index.json"
    index.write_bytes(index.read_bytes().replace(b"scene-3", b"scene-4", 1))
    notes: list[str] = []
    assert_same(prepared(Scenes(), tmp_path, note=notes.append), first)
    assert "checksum" in notes[0]


def test_a_cache_that_goes_away_is_an_error_where_it_is_opened_late(tmp_path: Path) -> None:
    samples = prepared(Scenes(), tmp_path)
    assert samples.cache is not None
    late = pickle.loads(pickle.dumps(samples))
    shorten(samples.cache / "masks.npy")
    with pytest.raises(ResourceError, match="start again"):
        late[0]


def test_two_processes_at_once_prepare_once(tmp_path: Path) -> None:
    log, results = tmp_path / "log", FORK.Queue()

    def child() -> None:
        notes: list[str] = []
        split = Scenes(log=log, pause=0.02)
        samples = prepared(split, tmp_path / "cache", note=notes.append)
        results.put((samples.fingerprint, int(samples[6].image.sum()), "; ".join(notes)))

    children = [FORK.Process(target=child) for _ in range(3)]
    for process in children:
        process.start()
    (print_0, sum_0, note_0), *others = [results.get(timeout=30) for _ in children]
    for process in children:
        process.join(30)
    assert all((print_i, sum_i) == (print_0, sum_0) for print_i, sum_i, _ in others)
    assert sorted(log.read_text().split()) == [str(i) for i in range(7)]
    notes = [note_0, *(note for *_, note in others)]
    assert sum("prepared once" in note for note in notes) == 1
    assert sum("reused" in note for note in notes) == 2


def start_and_kill(split: Scenes, cache: Path, log: Path) -> None:
    process = FORK.Process(target=lambda: prepared(split, cache))
    process.start()
    deadline = time.monotonic() + 30
    while not (log.exists() and len(log.read_text().split()) > 4):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_killed_process_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    start_and_kill(Scenes(log=tmp_path / "log", pause=0.1), cache, tmp_path / "log")
    (staging,) = folders(cache)
    assert staging.name.endswith(".partial")
    samples = prepared(Scenes(), cache)
    assert_is_scenes(samples, Scenes())
    assert folders(cache) == [samples.cache]


def test_what_a_killed_process_left_goes_when_other_data_is_prepared(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    start_and_kill(Scenes(log=tmp_path / "log", pause=0.1), cache, tmp_path / "log")
    samples = prepared(Scenes(seed="b"), cache)
    assert folders(cache) == [samples.cache]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    staging = tmp_path / ".alive.partial"
    staging.mkdir()
    with store.locked(tmp_path / "alive", print):
        prepared(Scenes(), tmp_path)
        assert staging.exists()
    prepared(Scenes(seed="b"), tmp_path)
    assert not staging.exists()


def test_an_interrupt_removes_what_was_written(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(Scenes(), tmp_path, progress=interrupt)
    assert folders(tmp_path) == []


def test_too_little_space_is_noted_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8000))
    notes: list[str] = []
    split = Scenes()
    samples = prepared(split, tmp_path, note=notes.append)
    assert samples.cache is None
    assert split.image_reads == []
    assert folders(tmp_path) == []
    assert len(notes) == 1
    assert "free" in notes[0]
    assert_same(samples, prepared(Scenes(), None))


def test_a_disk_that_fills_up_is_noted_and_done_without(tmp_path: Path) -> None:
    results = FORK.Queue()

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        notes: list[str] = []
        split = Scenes(count=60)
        samples = prepared(split, tmp_path, note=notes.append)
        results.put((samples.cache, samples.fingerprint, notes, len(split.mask_reads)))

    process = FORK.Process(target=child)
    process.start()
    cache, fingerprint, notes, reads = results.get(timeout=30)
    process.join(30)
    assert cache is None
    assert fingerprint == prepared(Scenes(count=60), None).fingerprint
    assert reads == 61  # once for the space that is needed
    assert "File too large" in notes[-1]
    assert folders(tmp_path) == []


def test_a_disk_that_fails_at_the_end_is_noted_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    notes: list[str] = []
    samples = prepared(Scenes(), tmp_path, note=notes.append)
    assert samples.cache is None
    assert "No space left" in notes[-1]
    assert_is_scenes(samples, Scenes())
    assert folders(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_noted_and_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notes: list[str] = []
    samples = prepared(Scenes(), tmp_path / "file", note=notes.append)
    assert samples.cache is None
    assert "cannot write" in notes[0]
    assert_is_scenes(samples, Scenes())


def test_the_first_bad_sample_stops_and_leaves_nothing(tmp_path: Path) -> None:
    split = Scenes(count=40, faults={30: "file 30 is damaged", 5: "file 5 is damaged"})
    with pytest.raises(InputError, match=r"^file 5 is damaged$"):
        prepared(split, tmp_path)
    assert folders(tmp_path) == []
    assert len(split.image_reads) < 30  # it did not read all first


def test_a_mask_of_another_size_than_its_picture_is_an_error(tmp_path: Path) -> None:
    message = r"sample 'scene-2': the image is \(11, 28\), its mask \(5, 28\) \(height, width\)"
    with pytest.raises(InputError, match=message):
        prepared(Mismatched(), tmp_path)
    with pytest.raises(InputError, match=message):
        _ = prepared(Mismatched(), None)[2]


@pytest.mark.parametrize("stored", [True, False])
def test_bad_samples_up_to_the_limit_are_left_out_and_named(tmp_path: Path, stored: bool) -> None:
    cache = tmp_path if stored else None
    faults = {0: "file 0 is damaged", 4: "file 4 is gone"}
    for _ in range(2):  # the second time from the cache
        notes: list[str] = []
        samples = prepared(Mismatched(faults=faults), cache, skip_bad=3, note=notes.append)
        assert samples.names == ("scene-1", "scene-3", "scene-5", "scene-6")
        assert samples.skipped == ("scene-0", "scene-2", "scene-4")
        assert_is_scenes(samples, Scenes())
        left_out = [note for note in notes if "left out" in note]
        assert left_out[0] == "left out sample 'scene-0': file 0 is damaged"
        assert len(left_out) == 3


def test_what_was_left_out_stops_a_training_that_may_leave_out_less(tmp_path: Path) -> None:
    split = Scenes(faults={0: "file 0 is damaged", 4: "file 4 is gone"})
    prepared(split, tmp_path, skip_bad=2)
    with pytest.raises(InputError, match=r"^file 0 is damaged$"):
        prepared(split, tmp_path)
    with pytest.raises(InputError, match=r"^2 of 7 samples"):
        prepared(split, tmp_path, skip_bad=1)


def test_more_bad_samples_than_the_limit_are_counted_and_five_named(tmp_path: Path) -> None:
    split = Scenes(count=20, faults={i: f"file {i} is damaged" for i in range(4, 14)})
    with pytest.raises(InputError, match=r"^10 of 20 samples .* at most 9") as caught:
        prepared(split, tmp_path, skip_bad=9)
    assert "'scene-8' (file 8 is damaged)" in str(caught.value)
    assert "scene-9" not in str(caught.value)
    assert folders(tmp_path) == []
    notes: list[str] = []
    assert len(prepared(split, tmp_path, skip_bad=10, note=notes.append)) == 10
    assert notes[-1] == "left out 5 more samples"
    with pytest.raises(InputError, match=r"^10 of 20 samples .* at most 9"):
        prepared(split, tmp_path, skip_bad=9)


def test_a_sample_left_out_earlier_is_used_once_it_is_readable(tmp_path: Path) -> None:
    prepared(Scenes(faults={3: "file 3 is locked"}), tmp_path, skip_bad=1)
    notes: list[str] = []
    samples = prepared(Scenes(), tmp_path, skip_bad=1, note=notes.append)
    assert len(samples) == 7
    assert "can be read now" in notes[0]


@pytest.mark.parametrize("stored", [True, False])
def test_no_usable_sample_is_an_error(tmp_path: Path, stored: bool) -> None:
    split = Scenes(count=2, faults={0: "damaged", 1: "damaged"})
    with pytest.raises(InputError, match="2 of 2"):
        prepared(split, tmp_path if stored else None, skip_bad=5)
    with pytest.raises(InputError, match="no samples"):
        prepared(Scenes(count=0), tmp_path)


@pytest.mark.parametrize("stored", [True, False])
def test_ids_that_are_no_class_always_stop(tmp_path: Path, stored: bool) -> None:
    with pytest.raises(MaskIdError, match=r"'scene-3' has ids that are no class: \[4\].* 0\.\.3"):
        prepared(WrongIds(), tmp_path if stored else None, skip_bad=7)


def test_ids_that_a_folders_class_table_does_not_name_always_stop(tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        (tmp_path / kind / "train").mkdir(parents=True)
    (tmp_path / "classes.tsv").write_text("id\tname\tr\tg\tb\n0\ta\t0\t0\t0\n1\tb\t9\t9\t9\n")
    for i, high in enumerate((1, 7, 300)):
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / "train" / f"{i}.png")
        mask = np.full((6, 8), high, dtype=np.uint8 if high < 256 else np.uint16)
        Image.fromarray(mask).save(tmp_path / "annotations" / "train" / f"{i}.png")
    for bad in (1, 2):
        split = open_source(f"folder:{tmp_path}").split("train")
        with pytest.raises(MaskIdError, match=f"{bad}.png"):
            prepare(split, FIT, 2, keep_truth=False, cache=None, skip_bad=3)
        (tmp_path / "images" / "train" / f"{bad}.png").unlink()
        (tmp_path / "annotations" / "train" / f"{bad}.png").unlink()


def test_a_spawned_process_reads_the_same_from_a_small_pickle(tmp_path: Path) -> None:
    samples = prepared(Scenes(count=30), tmp_path)
    pickled = pickle.dumps(samples)
    assert len(pickled) < 5000
    code = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer); assert 'torch' not in sys.modules;"
        "print(s[7].image.sum(), s[7].truth.shape, len(s))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickled, stdout=-1, check=True)
    expected = f"{samples[7].image.sum()} {samples[7].truth.shape} 30"
    assert done.stdout.decode().strip() == expected


def test_decoded_samples_are_pickled_with_their_split() -> None:
    samples = prepared(Scenes(), None, note=lambda _: None)
    assert_same(pickle.loads(pickle.dumps(samples)), samples)


def test_workers_of_a_data_loader_read_the_same(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    samples = prepared(Scenes(), tmp_path)
    loader = DataLoader(samples, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for sample, expected in zip(loader, samples, strict=True):
        np.testing.assert_array_equal(sample.image, expected.image)
        np.testing.assert_array_equal(sample.truth, expected.truth)


def test_the_default_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "somewhere"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert default_cache() == tmp_path / ".cache" / "edgeseg" / "samples"
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    assert default_cache() == Path("/big/edgeseg/samples")


def test_draft_decoding_gives_training_the_bytes_that_a_device_gets(tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        (tmp_path / kind / "train").mkdir(parents=True)
    noise = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((360, 240))
    picture.save(tmp_path / "images" / "train" / "a.jpg", quality=90)
    truth = np.random.default_rng(3).integers(0, 4, (240, 360), dtype=np.uint8)
    Image.fromarray(truth).save(tmp_path / "annotations" / "train" / "a.png")
    split = open_source(f"folder:{tmp_path}").split("train")
    samples = {}
    for decode in ("full", "draft"):
        fit = Preprocessing.model_validate({"height": 32, "width": 48, "decode": decode})
        sample = prepare(split, fit, 150, keep_truth=True, cache=tmp_path / "cache")[0]
        image, whole = fit.read(split.encoded(0))
        assert np.array_equal(sample.image, fit.fit_image(image, whole))
        assert sample.truth is not None
        assert sample.truth.shape == whole == (240, 360)
        samples[decode] = sample
    assert not np.array_equal(samples["full"].image, samples["draft"].image)
    assert np.array_equal(samples["full"].mask, samples["draft"].mask)
