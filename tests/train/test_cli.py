"""``edgeseg train``: options, one JSON document, errors in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeseg.cli.main import main
from edgeseg_train.run_folder import load_network, read_config


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
        ("--accumulate 0", 2, "accumulate"),
        ("--loss ce+focal", 2, "--loss"),
        ("--loss ce+ce", 2, "error: loss ce+ce names a term twice"),
        ("--loss=", 2, "--loss"),
        ("--size=", 2, "size"),
        ("--scale=", 2, "--scale"),
        ("--features=", 2, "--features"),
        ("--warmup 0.1", 2, "warmup has no effect"),
        ("--loss dice --hardest 0.5", 2, "need ce in the loss"),
        ("--cache x --no-cache", 2, "exclude each other"),
        ("--check --epochs 3", 2, "--epochs: --check only reads the data"),
        ("--ema 1", 2, "--ema"),
        ("--warmup -1", 2, "--warmup"),
        ("--hardest 0", 2, "--hardest"),
        ("--label-smoothing 1", 2, "--label-smoothing"),
        ("--class-weights many", 2, "class-weights"),
        ("--scale 2-0.5", 2, "low..high"),
        ("--scale x", 2, "--scale 'x' is not LOW-HIGH"),
        ("--blur 2", 2, "--blur"),
        ("--precision fp16 --data synthetic:4+1 --batch-size 2 --size 16", 2, "fp16 needs a GPU"),
        ("--recipe /nowhere.toml", 2, "cannot read recipe"),
        ("--recipe x.toml --preset tiny", 2, "exclude each other"),
        ("--teacher /nowhere", 4, "does not exist"),
        ("--temperature 2", 2, "need --teacher"),
        ("--ignore-index 3", 2, "synthetic"),
        ("--reduce-zero-label", 2, "synthetic"),
        ("--resume /nowhere", 2, "--out: a resumed training"),
        ("--size 8 --preset tiny --batch-size 1", 3, "batch norm has nothing to average"),
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


def test_a_resume_of_nothing_is_an_artifact_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("--resume", str(tmp_path / "run")) == 4
    assert "does not exist" in capsys.readouterr().err


def test_every_option_of_the_recipe_reaches_the_run(
    tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('preset = "tiny"\nfeatures = [2]\nsize = [32, 48]\n[training]\nclip = 0.5\n')
    options = {
        "epochs": "1", "batch-size": "2", "accumulate": "2", "optimizer": "sgd", "lr": "0.01",
        "weight-decay": "0.1", "schedule": "poly", "warmup": "0.5", "ema": "0.5",
        "loss": "ce+dice+lovasz", "class-weights": "inverse-log", "label-smoothing": "0.1",
        "hardest": "0.5", "teacher": str(tiny_run), "teacher-weight": "0.3", "temperature": "4",
        "seed": "3", "scale": "0.5-1.5", "jitter": "0.4", "blur": "0.5", "precision": "bf16",
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    out = tmp_path / "run"
    arguments += ["--recipe", str(recipe), "--no-flip", "--data", "synthetic:8+2", "--no-cache"]
    assert run_cli(*arguments, "--out", str(out), "--quiet") == 0
    training = read_config(out).training
    assert training.model_dump(exclude={"teacher", "augmentation"}) == {
        "epochs": 1, "max_steps": None, "batch_size": 2, "accumulate": 2, "optimizer": "sgd",
        "lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "clip": 0.5, "schedule": "poly",
        "warmup": 0.5, "ema": 0.5, "loss": ("ce", "dice", "lovasz"),
        "class_weights": "inverse-log", "label_smoothing": 0.1, "hardest": 0.5,
        "precision": "bf16", "compiled": False, "seed": 3,
    }  # fmt: skip
    assert training.augmentation.model_dump() == {
        "scale": (0.5, 1.5), "flip": False, "jitter": 0.4, "blur": 0.5,
    }  # fmt: skip
    assert training.teacher is not None
    assert (training.teacher.weight, training.teacher.temperature) == (0.3, 4)
    assert read_config(out).origin.precision == "bf16-mixed"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_gives_an_ordinary_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = "--data synthetic:4+1 --preset tiny --features 2 --size 16 --batch-size 2"
    options += " --epochs 1 --compile --ema 0.5 --quiet"
    assert run_cli("--out", str(out), *options.split()) == 0
    load_network(out, read_config(out))
