"""Studies of recipes: every variant trained once, its numbers those of its run."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edgeseg.cli.output import Output
from edgeseg.errors import ArtifactError, UsageError
from edgeseg_benchmarks.ablation import document, draw, finish, markdown, read_study
from edgeseg_train.run.job import Resources
from edgeseg_train.run_folder import read_config

STUDY = """
[recipe]
preset = "tiny"
features = [2]
size = [16, 16]
[recipe.training]
epochs = 2
batch_size = 2
[recipe.training.augmentation]
scale = [0.8, 1.2]

[[variant]]
name = "plain"

[[variant]]
name = "averaged"
training = { ema = 0.5, augmentation = { jitter = 0.0 } }
"""
DATA = "synthetic:4+1"


def study_file(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_variants_change_the_recipe_value_by_value(tmp_path: Path) -> None:
    plain, averaged = read_study(study_file(tmp_path))
    assert (plain.name, plain.change) == ("plain", "-")
    assert averaged.change == "ema 0.5, jitter 0.0"
    training = averaged.recipe.training
    assert (training.ema, training.epochs) == (0.5, 2)
    assert (training.augmentation.scale, training.augmentation.jitter) == ((0.8, 1.2), 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs variants"),
        ("[[variant]]\n[[variant]]", "a name of its own"),
        ("[[variant]]\nname='a'\n[[variant]]\nname='a'", "a name of its own"),
        ("[[variant]]\nname='a'\ntraining={ema=2}", r"study.toml', a: training\.ema"),
        ("[[", "cannot read study"),
    ],
)
def test_a_faulty_study_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_study(study_file(tmp_path, text))


def test_a_study_trains_each_variant_once_and_reports_its_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeseg_benchmarks.ablation", str(study_file(tmp_path))]
    command += ["--data", DATA, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    for variant in found["variants"]:
        run = tmp_path / "out" / "runs" / variant["name"]
        with (run / "metrics.csv").open() as file:
            rows = [float(row["val_miou"]) for row in csv.DictReader(file)]
        assert variant["val_miou_per_epoch"] == rows
        assert variant["result"]["val_miou"] == read_config(run).result.val_miou
    written = [
        path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/model.safetensors")
    ]
    variants = read_study(study_file(tmp_path))
    runs = [finish(v, DATA, tmp_path / "out", Resources(), Output(quiet=True)) for v in variants]
    assert json.loads(json.dumps(document(runs))) == found
    assert markdown(runs) == (tmp_path / "out" / "ablation.md").read_text()
    again = [
        path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").glob("*/model.safetensors")
    ]
    assert again == written
    draw(runs, tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 10
    changed = read_study(study_file(tmp_path, STUDY.replace("ema = 0.5", "ema = 0.6")))
    with pytest.raises(ArtifactError, match="trained with another recipe"):
        finish(changed[1], DATA, tmp_path / "out", Resources(), Output(quiet=True))
