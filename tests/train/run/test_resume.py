"""Stopping and going on: a resumed training is the uninterrupted one, bit for bit."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.fabric import Fabric

from edgeseg.errors import ArtifactError, Terminated, UsageError
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.run import loop
from edgeseg_train.run.job import Job
from edgeseg_train.run.loop import Step
from edgeseg_train.run.report import Reporter
from edgeseg_train.run.signals import StopRequest
from edgeseg_train.run.training import train
from edgeseg_train.run_folder import load_network, read_config
from edgeseg_train.unet import UNetConfig

EPOCHS = 3
STEPS_PER_EPOCH = 4  # 16 scenes in batches of 2, two batches per step
CLOCK = {"seconds", "images_per_second", "loader_images_per_second", "waiting"}


def job(**options: object) -> Job:
    recipe = {
        "epochs": EPOCHS,
        "batch_size": 2,
        "accumulate": 2,
        "lr": 1e-2,
        "schedule": "cosine",
        "warmup": 0.2,
        "ema": 0.9,
        "loss": ("ce", "dice", "lovasz"),
        "class_weights": "median-frequency",
        **options,
    }
    return Job(
        open_source("synthetic:16+3"),
        UNetConfig(features=(4,), norm="both", activation="relu", upsample="pixelshuffle"),
        Preprocessing(height=16, width=16),
        TrainingConfig.model_validate(recipe),
    )


class SignalAt(Reporter):
    """Sends this process a signal after some step."""

    def __init__(self, at: int, number: signal.Signals = signal.SIGINT) -> None:
        self.at, self.number, self.notes = at, number, []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: Step) -> None:
        if step.step == self.at:
            os.kill(os.getpid(), self.number)


def outcome(run: Path) -> tuple[bytes, str, list[dict[str, str]], object]:
    """Return all of a run that does not depend on the clock."""
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    kept = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
    weights, per_class = (
        (run / "model.safetensors").read_bytes(),
        (run / "per_class.csv").read_text(),
    )
    return weights, per_class, kept, read_config(run).result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(job(), out)
    return out


# Within an epoch, at its last step, in the last epoch, and at the very last step.
@pytest.mark.parametrize("at", [1, 2, STEPS_PER_EPOCH, 9, EPOCHS * STEPS_PER_EPOCH])
def test_a_resumed_training_equals_the_uninterrupted_one(
    tmp_path: Path, whole: Path, at: int
) -> None:
    report = SignalAt(at)
    with pytest.raises(KeyboardInterrupt, match=r"the state is saved; continue with --resume"):
        train(job(), tmp_path / "run", report=report)
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
    train(job(), tmp_path / "run", resume=True, report=report)
    assert f"continuing after step {at} of {EPOCHS * STEPS_PER_EPOCH}" in report.notes
    assert outcome(tmp_path / "run") == outcome(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_training_interrupted_at_every_step_equals_the_uninterrupted_one(
    tmp_path: Path, whole: Path
) -> None:
    resume = False
    for at in range(1, EPOCHS * STEPS_PER_EPOCH + 1):
        with pytest.raises(KeyboardInterrupt):
            train(job(), tmp_path / "run", resume=resume, report=SignalAt(at))
        resume = True
    train(job(), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_signal_during_validation_saves_the_epoch_that_was_trained(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = loop.evaluate

    def interrupted(network, batches, *rest):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGTERM)
        evaluate(network, batches, *rest)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    with pytest.raises(Terminated):
        train(job(), tmp_path / "run")
    monkeypatch.setattr(loop, "evaluate", evaluate)
    report = SignalAt(0)
    train(job(), tmp_path / "run", resume=True, report=report)
    assert f"continuing after step {STEPS_PER_EPOCH} of 12" in report.notes
    assert outcome(tmp_path / "run") == outcome(whole)


def test_max_steps_within_an_epoch_can_be_resumed_too(tmp_path: Path) -> None:
    short = job(epochs=None, max_steps=6, schedule="onecycle", warmup=0)
    train(short, tmp_path / "whole")
    for at in (5, 6):
        with pytest.raises(KeyboardInterrupt):
            train(short, tmp_path / f"run-{at}", report=SignalAt(at))
        train(short, tmp_path / f"run-{at}", resume=True)
        assert outcome(tmp_path / f"run-{at}") == outcome(tmp_path / "whole")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(job(), tmp_path / "run", report=SignalAt(6))
    return tmp_path / "run"


def test_other_data_than_before_is_refused_and_nothing_is_lost(unfinished: Path) -> None:
    other = dataclasses.replace(job(), source=open_source("synthetic:17+3"))
    with pytest.raises(ArtifactError, match=r"the data 'synthetic:17\+3' changed since"):
        train(other, unfinished, resume=True)
    train(job(), unfinished, resume=True)


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"ema": 0.0}, {"loss": ("ce",)}])
def test_another_recipe_than_before_is_refused(unfinished: Path, change: dict) -> None:
    with pytest.raises(ArtifactError, match="belongs to another job"):
        train(job(**change), unfinished, resume=True)


def test_another_architecture_than_before_is_refused(unfinished: Path) -> None:
    wider = UNetConfig(features=(8,), norm="both", activation="relu", upsample="pixelshuffle")
    with pytest.raises(ArtifactError, match="belongs to another job"):
        train(dataclasses.replace(job(), model=wider), unfinished, resume=True)


def test_a_damaged_checkpoint_costs_one_epoch_at_most(unfinished: Path, whole: Path) -> None:
    last = unfinished.with_name("run.partial") / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    report = SignalAt(0)
    train(job(), unfinished, resume=True, report=report)
    assert any("is damaged" in note and "using previous.ckpt" in note for note in report.notes)
    assert outcome(unfinished) == outcome(whole)


def test_weights_newer_than_the_checkpoint_are_kept_when_the_repeat_is_no_better(
    tmp_path: Path, whole: Path
) -> None:
    """As after a kill between the weights and the checkpoint, where repeating gives other bits."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(job(), out, report=SignalAt(6))
    partial = out.with_name("run.partial")
    config = read_config(partial)
    better = config.result.model_copy(update={"val_miou": 0.99, "epoch": 2})
    (partial / "config.json").write_text(
        config.model_copy(update={"result": better}).model_dump_json()
    )
    train(job(), out, resume=True)
    assert read_config(out).result == better  # and draw() could load what it describes


def test_weights_that_no_configuration_describes_are_replaced(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(job(), out, report=SignalAt(6))
    weights = out.with_name("run.partial") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    train(job(), out, resume=True)
    load_network(out, read_config(out))


def test_an_interrupt_after_a_bad_step_saves_that_step_too(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = iter([float("nan")])
    clip = Fabric.clip_gradients

    def once(self, *arguments, **options):  # type: ignore[no-untyped-def]
        norm = clip(self, *arguments, **options)
        return norm * next(norms, 1.0)

    monkeypatch.setattr(Fabric, "clip_gradients", once)
    report = SignalAt(1)
    with pytest.raises(KeyboardInterrupt, match="the state is saved"):
        train(job(), tmp_path / "run", report=report)
    train(job(), tmp_path / "run", resume=True, report=report)
    assert "continuing after step 1 of 12" in report.notes


def test_workers_leave_signals_to_the_training(tmp_path: Path) -> None:
    """``timeout`` and launchers send SIGTERM to all processes of the group."""
    process = subprocess.Popen(
        [*COMMAND, *OPTIONS, "--out", str(tmp_path / "run"), "--workers", "1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    after_epochs(process, 1)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "the state is saved" in stderr


def test_an_old_run_stays_until_the_resumed_one_is_whole(tmp_path: Path, whole: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    (out / "metrics.csv").write_text("the old one")
    with pytest.raises(KeyboardInterrupt):
        train(job(seed=1), out, force=True, report=SignalAt(6))
    assert (out / "metrics.csv").read_text() == "the old one"
    train(job(seed=1), out, force=True, resume=True)
    assert (out / "metrics.csv").read_text() != "the old one"


def test_the_first_signal_is_noted_and_the_second_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


COMMAND = [sys.executable, "-m", "edgeseg", "train"]
OPTIONS = ["--data=synthetic:60+4", "--preset=tiny", "--features=4", "--size=16x16", "--epochs=20"]


def started(out: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *OPTIONS, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def after_epochs(process: subprocess.Popen[str], count: int) -> None:
    """Wait until the command has told of so many epochs."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(f"epoch {count} "):
            return
    raise AssertionError("".join(lines))


def resumed(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--resume", str(out), *options], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_the_command_saves_exits_with_the_signals_status_and_goes_on(
    tmp_path: Path, number: signal.Signals, status: int, word: str
) -> None:
    out = tmp_path / "run"
    process = started(out, "--json")
    after_epochs(process, 2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert json.loads(stdout)["error"]["code"] == status
    assert f"{word}: the state is saved; continue with --resume {out}" in stderr
    refused = resumed(out, "--lr", "0.1", "--quiet")
    assert refused.returncode == UsageError.exit_code
    assert "--lr: a resumed training goes on as it began" in refused.stderr
    done = resumed(out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["epochs"] == 20
    again = resumed(out)
    assert again.returncode == UsageError.exit_code
    assert "is finished" in again.stderr


def test_a_killed_command_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    train_whole = subprocess.run(
        [*COMMAND, *OPTIONS, "--out", str(tmp_path / "whole"), "--quiet"], check=False
    )
    assert train_whole.returncode == 0
    out = tmp_path / "run"
    process = started(out)
    after_epochs(process, 3)
    process.kill()
    process.communicate()
    assert resumed(out, "--quiet").returncode == 0
    assert outcome(out) == outcome(tmp_path / "whole")
