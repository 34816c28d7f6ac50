"""Training end to end on a few scenes: the run folder, its numbers, its errors."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from edgeseg.errors import (
    ArtifactError,
    DeviceError,
    EdgeSegError,
    GateFailed,
    InputError,
    ResourceError,
    UsageError,
)
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing, resize_class_map, resize_image
from edgeseg_train.data import Split, open_source
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.run import loop, training
from edgeseg_train.run.history import Epoch
from edgeseg_train.run.job import Job, Resources
from edgeseg_train.run.loop import Step
from edgeseg_train.run.report import Reporter
from edgeseg_train.run.training import train
from edgeseg_train.run_folder import RunConfig, load_network, read_config
from edgeseg_train.samples.batches import Batch
from edgeseg_train.unet import UNet, UNetConfig


def job(**options: object) -> Job:
    recipe = {"epochs": 1, "batch_size": 4, "lr": 1e-2, "schedule": "constant", **options}
    return Job(
        open_source("synthetic:8+2"),
        UNetConfig(features=(2,), norm="both", activation="relu", upsample="pixelshuffle"),
        Preprocessing(height=16, width=16),
        TrainingConfig.model_validate(recipe),
    )


def test_a_run_folder_has_everything_and_nothing_else(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()}
    assert names == {
        "config.json",
        "curves.png",
        "metrics.csv",
        "model.safetensors",
        "per_class.csv",
        "samples.png",
    }
    for name in ("curves.png", "samples.png"):
        with Image.open(tiny_run / name) as picture:
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 10
    assert [path.name for path in tiny_run.parent.iterdir()] == [tiny_run.name]


def test_metrics_have_one_row_per_epoch(tiny_run: Path) -> None:
    rows = list(csv.DictReader((tiny_run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["step"] for row in rows] == ["3", "6"]
    for row in rows:
        assert 0 < float(row["train_loss"]) < 10
        assert 0 <= float(row["val_miou"]) <= float(row["val_pixel_accuracy"]) <= 1


def test_the_recorded_miou_is_that_of_the_saved_weights_on_the_deployed_path(
    tiny_run: Path,
) -> None:
    config = read_config(tiny_run)
    network = load_network(tiny_run, config)
    matrix = ConfusionMatrix(150)
    split = open_source(config.data.spec).split("val")
    size = (config.preprocessing.height, config.preprocessing.width)
    for i in range(len(split.names)):
        with torch.inference_mode():
            image = torch.tensor(resize_image(split.image(i), *size))[None]
            class_map = network(image).argmax(1)[0].to(torch.uint8).numpy()
        truth = split.mask(i)
        matrix.update(truth, resize_class_map(class_map, *truth.shape))
    assert config.result.val_miou == pytest.approx(matrix.mean_iou, abs=1e-3)
    assert config.result.val_pixel_accuracy == pytest.approx(matrix.pixel_accuracy, abs=1e-3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(job(seed=seed), tmp_path / name)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_max_steps_ends_within_an_epoch_and_still_validates(tmp_path: Path) -> None:
    config = train(job(epochs=5, max_steps=1), tmp_path / "run")
    assert config.result.step == 1
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 2


def test_an_existing_run_is_refused_and_force_replaces_only_runs(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UsageError):
            train(job(), out, force=force)
    assert (out / "thesis.txt").read_text() == "years of work"
    (out / "thesis.txt").unlink()
    train(job(), out, force=True)
    assert read_config(out).result.step == 2


def test_a_diverging_training_stops_after_three_bad_steps_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    with pytest.raises(GateFailed, match=r"not finite 3 times in a row.*lower --lr"):
        train(job(lr=1e30, clip=1e30, epochs=20, batch_size=1), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class Spoiler(Reporter):
    """Makes what the network computes overflow, from its first layer on, at some steps."""

    def __init__(self, steps: set[int]) -> None:
        self.steps, self.losses = steps, []

    def step(self, step: Step) -> None:
        self.losses.append(step.loss)


def spoil(monkeypatch: pytest.MonkeyPatch, spoiler: Spoiler) -> None:
    forward = UNet.forward

    def spoiled(self, x):  # type: ignore[no-untyped-def]
        bad = self.training and len(spoiler.losses) in spoiler.steps
        return forward(self, x * (float("inf") if bad else 1))

    monkeypatch.setattr(UNet, "forward", spoiled)


def test_single_bad_steps_change_nothing_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiler = Spoiler({1, 2, 4})
    spoil(monkeypatch, spoiler)
    config = train(job(epochs=3), tmp_path / "run", report=spoiler)
    assert np.isnan(spoiler.losses).tolist() == [False, True, True, False, True, False]
    assert np.isfinite(config.result.val_loss)
    load_network(tmp_path / "run", config)  # refuses weights that are not finite
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert all(float(row["val_loss"]) < 10 for row in rows)  # batch norm's statistics are sound
    assert all(float(row["train_loss"]) < 10 for row in rows[:1] + rows[2:])


def test_a_step_that_overflows_leaves_all_of_the_state_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate that hardly moves anything, the spoiled steps are as if they had not been."""
    still = {"epochs": 1, "batch_size": 2, "lr": 1e-12, "weight_decay": 0, "ema": 0.5}
    spoiler = Spoiler({3})
    spoil(monkeypatch, spoiler)
    spoiled = load_network(tmp_path / "a", train(job(**still), tmp_path / "a", report=spoiler))
    spoiler.steps, spoiler.losses = set(), []
    whole = load_network(tmp_path / "b", train(job(**still), tmp_path / "b", report=spoiler))
    assert [np.isfinite(loss) for loss in spoiler.losses] == [True] * 4
    for (name, found), expected in zip(
        spoiled.unet.state_dict().items(), whole.unet.state_dict().values(), strict=True
    ):
        assert torch.isfinite(found.float()).all(), name
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(found, expected)
    counts = [n.unet.state_dict()["downs.0.conv.1.num_batches_tracked"] for n in (spoiled, whole)]
    assert [int(count) for count in counts] == [3, 4]


def test_three_bad_steps_in_a_row_leave_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiler = Spoiler({2, 3, 4})
    spoil(monkeypatch, spoiler)
    with pytest.raises(
        GateFailed, match=r"diverged.*lower --lr; start again with --force; .*run\.partial'"
    ):
        train(job(epochs=3), tmp_path / "run", report=spoiler)
    partial = tmp_path / "run.partial"
    load_network(partial, read_config(partial))
    spoiler.steps = set()
    assert train(job(epochs=3), tmp_path / "run", resume=True, report=spoiler).result.step > 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class FailAt(Reporter):
    """Raises in an epoch."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        self.at, self.error = epoch, error

    def epoch(self, epoch: Epoch) -> None:
        if epoch.epoch == self.at:
            raise self.error


def test_a_failure_after_an_epoch_keeps_what_was_reached_beside_the_old_run(
    tmp_path: Path, tiny_run: Path
) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = (out / "model.safetensors").read_bytes()
    report = FailAt(2, RuntimeError("the disk\nis on fire"))
    with pytest.raises(EdgeSegError, match=r"RuntimeError: the disk; .*run\.partial"):
        train(job(epochs=3), out, force=True, report=report)
    assert (out / "model.safetensors").read_bytes() == before
    partial = tmp_path / "run.partial"
    assert load_network(partial, read_config(partial)).unet.config.features == (2,)


def test_an_unreadable_picture_in_a_worker_is_one_line(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 1)):
        for i in range(count):
            for folder, mode in (("images", "RGB"), ("annotations", "L")):
                path = tmp_path / "data" / folder / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (16, 16)).save(path)
    broken = tmp_path / "data" / "images" / "train" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    source = open_source(f"folder:{tmp_path / 'data'}")
    model = UNetConfig(num_classes=1, features=(2,))
    spoiled = dataclasses.replace(job(), source=source, model=model)
    with pytest.raises(InputError, match=r"^file '.*3\.png' is") as caught:
        train(spoiled, tmp_path / "run", resources=Resources(workers=2, cache=None))
    assert len(str(caught.value).splitlines()) == 1


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclasses.dataclass(frozen=True)
class Odd:
    """A split that does something before it gives an image to a worker."""

    split: Split
    before: Callable[[], None]

    def __getattr__(self, name: str) -> object:
        return getattr(object.__getattribute__(self, "split"), name)

    def image(self, index: int) -> np.ndarray:
        if torch.utils.data.get_worker_info() is not None:
            self.before()
        return self.split.image(index)


def odd_job(before: Callable[[], None]) -> Job:
    usual = job()
    splits = {**usual.source.splits, "train": Odd(usual.source.split("train"), before)}
    return dataclasses.replace(usual, source=dataclasses.replace(usual.source, splits=splits))


def test_a_worker_that_is_killed_is_a_resource_error(tmp_path: Path) -> None:
    killed = odd_job(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ResourceError, match=r"DataLoader worker.*fewer --workers"):
        train(killed, tmp_path / "run", resources=Resources(workers=1, cache=None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limit", "warnings"), [(-1.0, 1), (2.0, 0)])
def test_a_loader_that_limits_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, warnings: int
) -> None:
    monkeypatch.setattr(training, "WAITING_LIMIT", limit)  # a share of the time, really
    report = Notes()
    train(job(), tmp_path / "run", resources=Resources(cache=None), report=report)
    told = [note for note in report.notes if "reading data limits the training" in note]
    assert len(told) == warnings
    assert all(note.endswith("use more --workers, or the cache") for note in told)


def test_the_clock_tells_waiting_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    clock = loop.EpochClock()

    def batches() -> Iterator[Batch]:
        for _ in range(4):
            pass_by(3)
            yield Batch(torch.zeros(1), torch.zeros(1), seconds=5)

    for batch in clock.timed(batches()):
        pass_by(7)
        clock.images += 8
        clock.loading += batch.seconds
    clock.stop()
    pass_by(1000)
    assert clock.seconds == 40
    assert clock.waiting_share == pytest.approx(12 / 40)
    assert clock.images_per_second == pytest.approx(32 / 40)
    assert clock.loader_rate(workers=2) == pytest.approx(2 * 32 / 20)


def test_splits_without_labels_are_input_errors(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder, mode, fill in (("images", "RGB", 0), ("annotations", "L", 255)):
            path = tmp_path / "data" / folder / split / "a.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (16, 16), fill).save(path)
    (tmp_path / "data" / "classes.tsv").write_text("id\tname\tr\tg\tb\n0\ta\t1\t2\t3\n")
    source = open_source(f"folder:{tmp_path / 'data'}")
    unlabelled = dataclasses.replace(
        job(batch_size=1), source=source, model=UNetConfig(num_classes=1, features=(2,))
    )
    with pytest.raises(InputError, match="the train images have no labelled pixel"):
        train(unlabelled, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    Image.new("L", (16, 16), 0).save(tmp_path / "data" / "annotations" / "train" / "a.png")
    with pytest.raises(InputError, match="the val images have no labelled pixel"):
        train(unlabelled, tmp_path / "run")


def test_samples_show_the_saved_weights_and_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(
        training, "write_samples", lambda rows, *_: drawn.extend(row[2] for row in rows)
    )
    out = tmp_path / "run"
    train(job(epochs=4, lr=0.5), out)
    config = read_config(out)
    network, split = load_network(out, config), config_split(config.data.spec)
    for prediction, index in zip(drawn, (0, 1), strict=True):
        image = torch.tensor(resize_image(split.image(index), 16, 16))[None]
        with torch.inference_mode():
            class_map = network(image)[0].argmax(0).to(torch.uint8).numpy()
        np.testing.assert_array_equal(prediction, resize_class_map(class_map, *prediction.shape))


def config_split(spec: str) -> Split:
    return open_source(spec).split("val")


def test_more_devices_than_there_are_is_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="--devices 1000"):
        train(job(), tmp_path / "run", resources=Resources(devices=1000))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "write_curves", full)
    with pytest.raises(ResourceError, match=r"No space left.*run\.partial"):
        train(job(), tmp_path / "run")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def describing(config: RunConfig, weights: Path) -> RunConfig:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    result = config.result.model_copy(update={"weights_sha256": digest})
    return config.model_copy(update={"result": result})


def test_weights_that_are_missing_damaged_or_not_finite_are_artifact_errors(copy: Path) -> None:
    config, path = read_config(copy), copy / "model.safetensors"
    weights = load(path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot read"):
        load_network(copy, config)
    weights["final_conv.bias"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ArtifactError, match=r"is not what config\.json describes"):
        load_network(copy, config)
    with pytest.raises(ArtifactError, match=r"final_conv\.bias.*not finite"):
        load_network(copy, describing(config, path))
    del weights["final_conv.bias"]
    save_file(weights, path)
    with pytest.raises(ArtifactError, match="does not fit"):
        load_network(copy, describing(config, path))
    path.unlink()
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        load_network(copy, config)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', "\x00"])
def test_a_damaged_configuration_is_an_artifact_error(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ArtifactError):
        read_config(copy)
