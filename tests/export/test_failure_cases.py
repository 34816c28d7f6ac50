"""What goes wrong while exporting, case by case: the exit code, the message, what is left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeseg import files
from edgeseg.bundle import Bundle
from edgeseg.cli.main import main
from edgeseg.errors import ArtifactError
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import resize_class_map, resize_image
from edgeseg.segmenter import Segmenter
from edgeseg_export import exporting
from edgeseg_export.graph import torch_export
from edgeseg_train.data import open_source
from edgeseg_train.run_folder import read_config

LOW = [
    "--min-agreement",
    "0.5",
    "--max-miou-drop",
    "0.5",
    "--max-wide-flips",
    "1",
    "--calibration-images",
    "8",
]
FAST = ["--precision", "fp32", "--parity-images", "2"]


def run_cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["export", *map(str, arguments)])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def old(tiny_export: Path, tmp_path: Path) -> Path:
    """Return a bundle that stands where the next one shall go, alone in its folder."""
    (tmp_path / "out").mkdir()
    return Path(shutil.copytree(tiny_export, tmp_path / "out" / "bundle"))


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def rewrite(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change a run's weights as if it had been trained like that."""
    path = run / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    config = json.loads((run / "config.json").read_text())
    config["result"]["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "config.json").write_text(json.dumps(config))


def test_e1_a_single_odd_size_is_padded_and_the_answers_cover_it(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    assert run_cli(tiny_run, "--out", out, "--size", "33x47", *FAST) == 0
    assert "at 33x47, padded inside to 36x48 and cropped back" in capsys.readouterr().err
    parity = Bundle.open(out).manifest.variants["fp32"].parity
    assert parity.flips.pixels == 2 * 33 * 47
    assert parity.agreement >= 0.999


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        (["--dynamic", "size", "--size", "33x47"], "32x48"),
        (["--dynamic", "size", "--size", "1x2"], "4x4"),
        (["--sizes", "32x32,33x47"], "32x48"),
    ],
)
def test_e1_where_padding_is_impossible_the_nearest_size_is_named(
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    nearest: str,
) -> None:
    assert run_cli(tiny_run, "--out", tmp_path / "b", "--quiet", *options) == 3
    error = capsys.readouterr().err
    assert "multiples of 4" in error
    assert f"nearest: {nearest}" in error
    assert list(tmp_path.iterdir()) == []


class Unexportable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.special.bessel_j0(x)


def test_e2_an_unsupported_operator_is_named_with_the_opset_and_nothing_is_left(
    tiny_run: Path,
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = exporting.load_network

    def odd(*arguments: object) -> torch.nn.Module:
        network = real(*arguments)
        network.unet.final_conv = torch.nn.Sequential(network.unet.final_conv, Unexportable())
        return network

    before = contents(old)
    monkeypatch.setattr(exporting, "load_network", odd)
    assert run_cli(tiny_run, "--out", old, "--force", "--quiet", *FAST) == 4
    error = capsys.readouterr().err
    assert "bessel_j0" in error
    assert "opset 20" in error
    assert len(error.splitlines()) == 1
    assert contents(old) == before
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("opset", [13, 99])
def test_e2_an_opset_that_the_exporter_does_not_write_is_an_error(
    make_network, monkeypatch: pytest.MonkeyPatch, opset: int
) -> None:
    monkeypatch.setattr(torch_export, "OPSET", opset)
    with pytest.raises(ArtifactError, match=rf"opset 18 instead of {opset}"):
        torch_export.to_onnx(make_network(features=(4,)), 8, 8)


def test_e3_a_parity_failure_says_how_far_and_keeps_the_rejected_bundle(
    tiny_run: Path,
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(old)
    real = exporting.to_onnx

    def spoiled(network, *size: int, **options: object) -> bytes:
        bias = network.unet.final_conv.bias
        with torch.no_grad():
            bias[0] += 100
            model = real(network, *size, **options)
            bias[0] -= 100
        return model

    monkeypatch.setattr(exporting, "to_onnx", spoiled)
    assert run_cli(tiny_run, "--out", old, "--force", "--quiet", *FAST) == 5
    error = capsys.readouterr().err
    rejected = old.with_name("bundle.rejected")
    parity = Bundle.open(rejected).manifest.variants["fp32"].parity
    assert parity.logits.max == pytest.approx(100, abs=0.1)
    assert f"agreement with PyTorch {parity.agreement:.4%} is below 99.90%" in error
    assert "fp32: logits differ by up to 100" in error
    assert "bundle.rejected" in error
    assert len(error.splitlines()) == 1
    assert contents(old) == before
    assert {path.name for path in old.parent.iterdir()} == {"bundle", "bundle.rejected"}
    with pytest.raises(ArtifactError, match="rejected at export"):
        Segmenter.load(rejected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["bottleneck.conv.3.weight", "downs.0.conv.1.running_var"])
def test_e4_weights_that_are_not_finite_are_refused_by_name(
    run: Path, old: Path, capsys: pytest.CaptureFixture[str], name: str, value: float
) -> None:
    before = contents(old)

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[name].view(-1)[1] = value

    rewrite(run, change)
    assert run_cli(run, "--out", old, "--force", "--quiet", *FAST) == 4
    error = capsys.readouterr().err
    assert f"tensor {name} has values that are not finite" in error
    assert len(error.splitlines()) == 1
    assert contents(old) == before
    assert list(old.parent.iterdir()) == [old]


def test_e4_weights_changed_behind_the_configurations_back_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run_cli(run, "--out", tmp_path / "b", "--quiet", *FAST) == 4
    assert "SHA-256 differs" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_e5_an_existing_output_is_kept_without_force_and_replaced_whole_with_it(
    tiny_run: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(old)
    assert run_cli(tiny_run, "--out", old, "--quiet", *FAST) == 2
    assert "exists already; choose another or add --force" in capsys.readouterr().err
    assert contents(old) == before
    assert run_cli(tiny_run, "--out", old, "--force", "--quiet", *FAST) == 0
    Bundle.open(old).check_files()
    assert "model.int8-cpu.onnx" not in contents(old)
    assert list(old.parent.iterdir()) == [old]


def test_e5_force_does_not_replace_somebodys_folder(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    assert run_cli(tiny_run, "--out", tmp_path / "b", "--force", "--quiet", *FAST) == 2
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"


WITH_FULL_DISK = """
import resource, sys
from edgeseg.cli.main import main
import edgeseg_export.cli.export, torch.onnx, onnxruntime.quantization  # their files are written
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
statuses = []
for precision in ("fp32", "int8"):  # writing the bundle and writing temporary files
    try:
        main(["export", *sys.argv[1:], "--precision", precision])
    except SystemExit as end:
        statuses.append(end.code)
print(statuses)
"""

KILLED_WHILE = """
import os, signal, sys
from edgeseg.cli.main import main
from edgeseg_export import exporting

def killed(*arguments, **options):
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

real = getattr(exporting, sys.argv[1])
setattr(exporting, sys.argv[1], killed)
main(["export", *sys.argv[2:]])
"""


def in_a_process(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_e6_a_full_disk_is_exit_7_and_the_old_bundle_stays(tiny_run: Path, old: Path) -> None:
    before = contents(old)
    options = ["--parity-images", "1", "--quiet", *LOW]
    done = in_a_process(WITH_FULL_DISK, tiny_run, "--out", old, "--force", *options)
    assert done.stdout == "[7, 7]\n", done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert all("File too large" in error for error in errors)
    assert contents(old) == before
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("step", ["observe", "atomic_write"])
def test_e6_a_killed_export_leaves_the_old_bundle_and_its_remains_are_cleaned_up(
    tiny_run: Path, old: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = contents(old)
    options = ["--precision", "int8", "--parity-images", "1", *LOW]
    done = in_a_process(KILLED_WHILE, step, tiny_run, "--out", old, "--force", *options)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert contents(old) == before
    (stale,) = (path for path in old.parent.iterdir() if path != old)
    assert stale.name.startswith(".bundle.partial-")
    monkeypatch.setattr(files, "STALE_S", -1)
    with files.staged_folder(old, "manifest.json", force=True) as folder:
        shutil.copytree(old, folder, dirs_exist_ok=True)
    assert contents(old) == before
    assert list(old.parent.iterdir()) == [old]


def test_e6_only_old_remains_of_dead_processes_are_cleaned_up(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "stale": f".b.partial-{dead.pid}",
        "running": f".b.partial-{os.getppid()}",
        "foreign": ".b.partial-notes",
        "other": f".c.partial-{dead.pid}",
    }
    yesterday = time.time() - 25 * 3600
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
        os.utime(tmp_path / name, (yesterday, yesterday))
    fresh = subprocess.Popen([sys.executable, "-c", ""])
    fresh.wait()
    (tmp_path / f".b.partial-{fresh.pid}").mkdir()
    with files.staged_folder(tmp_path / "b", "marker", force=False) as folder:
        (folder / "marker").touch()
    expected = {"b", f".b.partial-{fresh.pid}", *names.values()} - {names["stale"]}
    assert {path.name for path in tmp_path.iterdir()} == expected


def folder_data(root: Path, train: list[np.ndarray], val: list[np.ndarray], config) -> str:
    """Write a data set of the run's classes; the masks are class 0 everywhere."""
    for split, pictures in (("train", train), ("val", val)):
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(root / "images" / split / f"{i}.png")
            mask = np.zeros(picture.shape[:2], dtype=np.uint8)
            Image.fromarray(mask).save(root / "annotations" / split / f"{i}.png")
    labels = zip(config.labels.names, config.labels.palette, strict=True)
    table = ["id\tname\tr\tg\tb"]
    table += ["\t".join(map(str, (i, name, *rgb))) for i, (name, rgb) in enumerate(labels)]
    (root / "classes.tsv").write_text("\n".join(table) + "\n")
    return f"folder:{root}"


def noise(count: int, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return list(random.integers(0, 256, (count, 32, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (noise(7, 0), noise(2, 1), "needs at least 8 images, but 'folder:data' gives 7"),
        (noise(8, 0), noise(8, 0)[3:4], "1 calibration images are evaluation images, too, first"),
    ],
    ids=["too few", "overlapping"],
)
def test_e8_images_that_cannot_calibrate_are_exit_3(
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    train: list[np.ndarray],
    val: list[np.ndarray],
    words: str,
) -> None:
    data = folder_data(tmp_path / "data", train, val, read_config(tiny_run))
    out = tmp_path / "b"
    status = run_cli(tiny_run, "--out", out, "--quiet", "--calibration", data)
    error = capsys.readouterr().err
    assert status == 3, error
    assert words in error
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_e8_nothing_is_checked_that_is_not_used(tiny_run: Path, tmp_path: Path) -> None:
    data = folder_data(tmp_path / "data", noise(1, 0), noise(1, 0), read_config(tiny_run))
    options = ["--precision", "fp32", "--calibration", data]
    assert run_cli(tiny_run, "--out", tmp_path / "b", "--quiet", *options) == 0


def test_e9_black_images_cannot_calibrate(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black = [np.zeros((32, 48, 3), dtype=np.uint8)] * 8
    data = folder_data(tmp_path / "data", black, noise(2, 1), read_config(tiny_run))
    assert run_cli(tiny_run, "--out", tmp_path / "b", "--quiet", "--calibration", data) == 3
    assert "all calibration images are of one colour" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_e9_a_layer_without_activity_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["downs.1.conv.1.weight"].zero_()
        weights["downs.1.conv.1.bias"].fill_(-1)

    rewrite(run, change)
    assert run_cli(run, "--out", tmp_path / "b", "--quiet", "--parity-images", "2", *LOW) == 3
    assert "the input of layer downs.1.conv.3 is zero in all" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_e10_a_missed_gate_names_the_classes_that_lost_most(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run_cli(
        tiny_run,
        "--out",
        tmp_path / "b",
        "--quiet",
        *["--precision", "int8", "--min-agreement", "1", "--calibration-images", "8"],
    )
    error = capsys.readouterr().err
    assert status == 5
    assert len(error.splitlines()) == 1
    rejected = Bundle.open(tmp_path / "b.rejected")
    drops = iou_drops(tiny_run, rejected)
    worst, drop = max(drops.items(), key=lambda item: item[1])
    assert drop > 0
    assert "int8-cpu: logits differ by up to" in error
    assert f"IoU fell most for '{worst}' -{drop:.4f}" in error
    assert "fp32: logits" not in error


def test_e10_only_the_three_worst_classes_are_named_the_worst_first(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = exporting.measure
    names = read_config(tiny_run).labels.names
    deltas = [None, 0.5, -0.1, -0.4, -0.2, -0.3, *[0.0] * (len(names) - 6)]

    def measured(*arguments: object) -> object:
        changes = {"agreement": 0.1, "class_iou_delta": tuple(deltas)}
        return real(*arguments).model_copy(update=changes)

    monkeypatch.setattr(exporting, "measure", measured)
    assert run_cli(tiny_run, "--out", tmp_path / "b", "--quiet", *FAST) == 5
    worst = f"'{names[3]}' -0.4000, '{names[5]}' -0.3000, '{names[4]}' -0.2000; the bundle"
    assert f"IoU fell most for {worst}" in capsys.readouterr().err


def iou_drops(run: Path, bundle: Bundle) -> dict[str, float]:
    """Return fp32's IoU (PyTorch's, up to rounding) minus int8-cpu's per class, by hand."""
    split = open_source(read_config(run).data.spec).split("val")
    size = bundle.manifest.sizes[0]
    ious = []
    for name in ("fp32", "int8-cpu"):
        session = onnxruntime.InferenceSession(
            bundle.read(f"model.{name}.onnx"), providers=["CPUExecutionProvider"]
        )
        matrix = ConfusionMatrix(bundle.manifest.labels.num_classes)
        for i in range(len(split.names)):
            picture, mask = resize_image(split.image(i), *size), split.mask(i)
            (class_maps,) = session.run(None, {"images": picture[None]})
            matrix.update(mask, resize_class_map(class_maps[0], *mask.shape))
        ious.append(matrix.iou_per_class)
    losses = np.nan_to_num(ious[0] - ious[1])
    return dict(zip(bundle.manifest.labels.names, losses.tolist(), strict=True))


def test_e13_all_variants_twice_have_the_same_hashes(tiny_run: Path, tmp_path: Path) -> None:
    options = [
        option for name in ("fp16", "bf16", "int8", "fp8") for option in ("--precision", name)
    ]
    options += ["--target", "all", "--sensitivity", "--parity-images", "2", *LOW]
    hashes = []
    for name in ("first", "second"):
        assert run_cli(tiny_run, "--out", tmp_path / name, "--quiet", *options) == 0
        hashes.append(
            {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in (tmp_path / name).iterdir()
            }
        )
    assert hashes[0] == hashes[1]
    assert {name for name in hashes[0] if name.endswith(".onnx")} == {
        f"model.{kind}.onnx" for kind in ("fp32", "fp16", "bf16", "int8-cpu", "int8-trt", "fp8-trt")
    }
