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

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgeseg.cpu import cpu_threads
from edgeseg_train.run.processes import is_helper_process, started_by_launcher
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


def same_picture_with_uneven_masks(folder: Path) -> str:
    """Write samples for which batch norm sees the same in every batch, the loss does not."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for split, count in (("train", 32), ("val", 5)):
        for i in range(count):
            mask = generator.integers(0, 3, (32, 32), dtype=np.uint8)
            mask[: generator.integers(0, 32)] = 255  # from nothing to nearly all is ignored
            for kind, array in (("images", picture), ("annotations", mask)):
                path = folder / kind / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return f"folder:{folder}"


def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path: Path) -> None:
    data = same_picture_with_uneven_masks(tmp_path / "data")
    still = [f"--data={data}", "--scale=1", "--jitter=0", "--no-flip", "--lr=0.01"]
    still += ["--class-weights=median-frequency", "--epochs=4"]
    one = run(tmp_path / "one", *still, "--batch-size=8")
    assert one.returncode == 0, one.stderr
    two = run(tmp_path / "two", *still, "--batch-size=4", "--devices=2", "--json")
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["origin"]["devices"] == 2
    assert rows(tmp_path / "one")[-1]["train_loss"] < 0.98 * rows(tmp_path / "one")[0]["train_loss"]
    for single, double in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in ("step", "train_loss", "train_pixel_accuracy", "lr"):
            assert double[name] == pytest.approx(single[name], rel=1e-3), name
        # Batch norm's running variance is unbiased, so it knows how many pixels a process saw.
        assert double["val_loss"] == pytest.approx(single["val_loss"], rel=1e-2)
    found = load_file(tmp_path / "two" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "one" / "model.safetensors").items():
        if "running" not in name:
            torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-3, msg=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one", "two"]


def test_what_is_wrong_for_another_process_is_told_once_with_its_status(tmp_path: Path) -> None:
    data = same_picture_with_uneven_masks(tmp_path / "data")
    for i in range(0, 32, 2):  # so that a bad image is in each half batch
        path = tmp_path / "data" / "images" / "train" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:60])
    done = run(
        tmp_path / "run", f"--data={data}", "--batch-size=4", "--devices=2", "--no-cache", "--json"
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == 3
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr  # the plan and the error
    assert not (tmp_path / "run.partial").exists()


def test_a_process_that_is_killed_ends_the_training_with_a_resource_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *COMMAND,
            *OPTIONS,
            *["--epochs=500", "--batch-size=4", "--devices=2", "--out"],
            tmp_path / "run",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2 "):  # the first one is saved by now
            (helper,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(helper), signal.SIGKILL)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 7, stderr
    assert "process 1 was killed by signal 9" in stderr
    assert "--resume" in stderr


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
        [*COMMAND, "--resume", str(tmp_path / "run")],  # it knows how many processes there were
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
    assert done.returncode == 2, done.stderr
    assert "resume it with --devices 1 --nodes 1" in done.stderr


def test_launchers_are_known_by_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started_by_launcher() is None
    assert not is_helper_process()
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert started_by_launcher() is None  # inside a batch script, not started by srun
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert started_by_launcher() == (4, 2)
    assert is_helper_process()
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert not is_helper_process()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert started_by_launcher() == (3, 2)
    monkeypatch.setenv("RANK", "5")
    assert is_helper_process()


def test_a_rank_that_no_launcher_set_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "1")
    assert not is_helper_process()


def assert_trained_together(processes: list[subprocess.Popen[bytes]], run: Path) -> None:
    for process in processes:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert read_config(run).origin.devices == 2


def test_several_machines_need_a_place_to_meet(tmp_path: Path) -> None:
    done = run(tmp_path / "run", "--batch-size=4", "--nodes=2")
    assert done.returncode == 2, done.stderr
    assert "--nodes 2 needs torchrun, srun, or MASTER_ADDR" in done.stderr


def test_two_machines_that_are_told_where_to_meet_train_one_run(tmp_path: Path) -> None:
    """Both are this machine, each with one process, as a user would start them by hand."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    options = [*OPTIONS, "--batch-size=4", "--nodes=2", "--out", str(tmp_path / "run")]
    processes = [
        subprocess.Popen(
            [*COMMAND, *options],
            env={**os.environ, **meeting, "NODE_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    assert_trained_together(processes, tmp_path / "run")


def test_a_batch_script_without_srun_gets_the_devices_it_asks_for(tmp_path: Path) -> None:
    done = run(
        tmp_path / "run", "--batch-size=4", "--devices=2", SLURM_NTASKS="1", SLURM_JOB_ID="7"
    )
    assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "run").origin.devices == 2


def test_srun_starts_the_processes_and_is_believed(tmp_path: Path) -> None:
    job = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_JOB_ID": "4711", "SLURM_NODELIST": "localhost", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [*COMMAND, *OPTIONS, "--batch-size=4", "--out", str(tmp_path / "run")],
            env={**os.environ, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    assert_trained_together(processes, tmp_path / "run")
