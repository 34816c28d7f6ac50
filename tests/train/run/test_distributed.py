"""Several processes: the same training as one, the metric of all, one run folder."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from edgeseg.cpu import cpu_threads
from edgeseg_train.run.job import is_helper_process, launched_processes
from edgeseg_train.run_folder import read_config

pytestmark = pytest.mark.skipif(cpu_threads() < 2, reason="needs two CPU cores")

COMMAND = [sys.executable, "-m", "edgeseg", "train"]
OPTIONS = [
    "--data=synthetic:33+5",
    "--preset=tiny",
    "--features=4,8",
    "--size=32x32",
    "--epochs=3",
    "--ema=0.5",
    "--lr=0.001",
]


def run(out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *OPTIONS, "--out", str(out), *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )


def rows(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path: Path) -> None:
    one = run(tmp_path / "one", "--batch-size=8")
    assert one.returncode == 0, one.stderr
    two = run(tmp_path / "two", "--batch-size=4", "--devices=2", "--json")
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["origin"]["devices"] == 2
    # Each process normalises its half batch (CPUs have no synchronised batch norm), so the curves
    # are close and not equal.
    for single, double in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert double["step"] == single["step"]
        assert double["train_loss"] == pytest.approx(single["train_loss"], rel=0.02)
        assert double["val_loss"] == pytest.approx(single["val_loss"], rel=0.02)
        assert double["val_classes_present"] == single["val_classes_present"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_interrupt_ends_both_processes_and_they_go_on_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    options = ("--batch-size=4", "--devices=2")
    whole = run(tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [*COMMAND, *OPTIONS, *options, "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1 "):
            process.send_signal(signal.SIGTERM)  # to the first process only
    assert process.wait(timeout=60) == 143
    alone = run(tmp_path / "none", "--resume", str(tmp_path / "run"))
    assert alone.returncode == 2  # --out, --data ... are refused
    resumed = subprocess.run(
        [*COMMAND, "--resume", str(tmp_path / "run"), "--devices=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    found = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert (found[name] == tensor).all(), name
    assert read_config(tmp_path / "run").result == read_config(tmp_path / "whole").result


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_torchrun_starts_the_processes_and_is_believed(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launcher += [f"--master-port={free_port()}", "-m", "edgeseg", "train"]
    done = subprocess.run(
        [*launcher, *OPTIONS, "--batch-size=4", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "run").origin.devices == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_resumed_training_needs_as_many_processes_as_before(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, *OPTIONS, "--batch-size=4", "--out", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1 "):
            process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    done = subprocess.run(
        [*COMMAND, "--resume", str(tmp_path / "run"), "--devices=2", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "another number of processes" in done.stderr


def test_launchers_are_known_by_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_processes() is None
    assert not is_helper_process()
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert launched_processes() is None  # inside a batch script, not started by srun
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert launched_processes() == (4, 2)
    assert is_helper_process()
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert not is_helper_process()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert launched_processes() == (3, 2)
    monkeypatch.setenv("RANK", "5")
    assert is_helper_process()
