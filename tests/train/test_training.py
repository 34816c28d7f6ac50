"""Training end to end on a few scenes: the run folder, its numbers, its errors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from edgeseg.cli.main import main
from edgeseg.errors import ArtifactError, GateFailed, UsageError
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing, resize_class_map, resize_image
from edgeseg_train.data import open_source
from edgeseg_train.presets import PRESETS, TrainingConfig
from edgeseg_train.run_folder import load_network, read_config
from edgeseg_train.training import Job, train
from edgeseg_train.unet import UNetConfig


def job(**training: object) -> Job:
    recipe = {"epochs": 1, "batch_size": 4, "lr": 1e-2, "schedule": "constant", **training}
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


def test_a_diverging_training_stops_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match=r"diverged.*lower --lr"):
        train(job(lr=1e30, clip=1e30, epochs=20), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_the_best_weights_of_the_finished_epochs(tmp_path: Path) -> None:
    def interrupt(epoch: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job(epochs=3), tmp_path / "run", tell=interrupt)
    config = read_config(tmp_path / "run")
    assert config.result.step == 2
    load_network(tmp_path / "run", config)


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_weights_that_are_missing_damaged_or_not_finite_are_artifact_errors(copy: Path) -> None:
    config, path = read_config(copy), copy / "model.safetensors"
    weights = load(path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot read"):
        load_network(copy, config)
    weights["final_conv.bias"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ArtifactError, match=r"final_conv\.bias.*not finite"):
        load_network(copy, config)
    del weights["final_conv.bias"]
    save_file(weights, path)
    with pytest.raises(ArtifactError, match="does not fit"):
        load_network(copy, config)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        load_network(copy, config)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', "\x00"])
def test_a_damaged_configuration_is_an_artifact_error(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ArtifactError):
        read_config(copy)


def test_presets_name_the_reference_recipe() -> None:
    seed = PRESETS["seed"]
    assert (seed.features, seed.size) == ((64, 128, 256, 512), (512, 512))
    assert (seed.norm, seed.activation, seed.upsample) == ("first", "gelu", "transpose")
    recipe = seed.training
    assert (recipe.lr, recipe.weight_decay, recipe.clip) == (1e-4, 0.01, 1.0)


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_the_command_trains_and_prints_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = "--preset tiny --features 2,4 --size 16x24 --max-steps 2 --batch-size 2 --json"
    status = run_cli("--data", "synthetic:4+1", "--out", str(out), *options.split())
    assert status == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"]["features"] == [2, 4]
    preprocessing = document["preprocessing"]
    assert (preprocessing["height"], preprocessing["width"]) == (16, 24)
    assert np.isfinite(document["result"]["val_loss"])


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ("--preset huge", 2, "no preset 'huge'"),
        ("--features 4,x", 2, "--features"),
        ("--features 0", 2, "--features"),
        ("--size 0x4", 2, "size"),
        ("--size 4by4", 2, "size"),
        ("--lr nan", 2, "--lr"),
        ("--lr -1", 2, "--lr"),
        ("--batch-size 0", 2, "batch-size"),
        ("--norm none", 2, "norm"),
        ("--wat", 2, "No such option"),
        ("--data folder:/nowhere", 3, "does not exist"),
        ("--data synthetic:2+1 --batch-size 8", 3, "fewer than one batch"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, status: int, words: str
) -> None:
    assert run_cli("--out", str(tmp_path / "run"), *options.split(), "--quiet") == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
