"""Export end to end: the bundle, its gates, and that a failure changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeseg.bundle import Bundle
from edgeseg.cli.main import main
from edgeseg.errors import ArtifactError, GateFailed, InputError, UsageError
from edgeseg.segmenter import Segmenter
from edgeseg_export import exporting
from edgeseg_export.exporting import Options, export
from edgeseg_train.data import open_source
from edgeseg_train.run_folder import load_network, read_config

LOW = {"min_agreement": 0.5, "max_miou_drop": 0.5, "calibration_images": 4}


def test_a_bundle_has_exactly_the_files_of_its_manifest(tiny_export: Path) -> None:
    assert {path.name for path in tiny_export.iterdir()} == {
        "manifest.json",
        "model.fp32.onnx",
        "model.int8-cpu.onnx",
        "reference.npz",
    }
    bundle = Bundle.open(tiny_export)
    bundle.check_files()
    assert list(bundle.manifest.variants) == ["fp32", "int8-cpu"]


def test_the_manifest_describes_the_model(tiny_run: Path, tiny_export: Path) -> None:
    manifest, config = Bundle.open(tiny_export).manifest, read_config(tiny_run)
    network = load_network(tiny_run, config)
    assert manifest.labels == config.labels
    assert manifest.preprocessing == config.preprocessing
    assert manifest.model.parameters == sum(p.numel() for p in network.parameters())
    assert manifest.model.size_multiple == 4
    int8 = manifest.variants["int8-cpu"]
    assert (int8.precision, int8.target, int8.opset) == ("int8", "cpu", 20)
    assert int8.calibration is not None
    assert (int8.calibration.images, int8.calibration.source) == (8, config.data.spec)
    weights = (tiny_run / "model.safetensors").read_bytes()
    assert manifest.model.weights_sha256 == hashlib.sha256(weights).hexdigest()


def test_gflops_count_two_operations_per_multiply_add(tiny_run: Path, tiny_export: Path) -> None:
    config = read_config(tiny_run)
    macs, (h, w) = 0, (config.preprocessing.height, config.preprocessing.width)
    for name, tensor in load_network(tiny_run, config).unet.state_dict().items():
        if name.endswith("weight") and tensor.ndim == 4:
            level = {"downs.0": 0, "ups.3": 0, "final_": 0, "downs.1": 1, "ups.1": 1, "ups.2": 1}
            scale = 4 ** level.get(name[:7].rstrip("."), level.get(name[:6].rstrip("."), 2))
            scale = 4**2 if name.startswith(("bottleneck", "ups.0")) else scale
            macs += tensor.numel() * h * w // scale
    assert Bundle.open(tiny_export).manifest.model.gflops == pytest.approx(2 * macs / 1e9, rel=0.02)


def test_fp32_agrees_with_pytorch_on_the_reference(tiny_run: Path, tiny_export: Path) -> None:
    bundle, network = Bundle.open(tiny_export), load_network(tiny_run, read_config(tiny_run))
    reference = bundle.reference()
    with torch.inference_mode():
        logits = network(torch.tensor(reference.images))
    assert np.mean(reference.class_maps == logits.argmax(1).numpy()) >= 0.999  # batch 8, not 1
    assert bundle.manifest.variants["fp32"].parity.agreement >= 0.999


def test_exporting_again_gives_the_same_hashes(
    tiny_run: Path, tiny_export: Path, tmp_path: Path
) -> None:
    again = export(
        tiny_run,
        tmp_path / "b",
        Options(min_agreement=0.5, max_miou_drop=0.5, calibration_images=8),
    )
    assert again == Bundle.open(tiny_export).manifest


def test_a_missed_gate_leaves_the_rejected_bundle_and_the_old_one(
    tiny_run: Path, tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(tiny_export, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    real = exporting.to_onnx

    def spoiled(network, *size: int, **options: object) -> bytes:
        with torch.no_grad():
            network.unet.final_conv.bias[0] += 100
        model = real(network, *size, **options)
        with torch.no_grad():
            network.unet.final_conv.bias[0] -= 100
        return model

    monkeypatch.setattr(exporting, "to_onnx", spoiled)
    with pytest.raises(GateFailed, match=r"agreement.*below 99\.90%.*bundle\.rejected"):
        export(tiny_run, out, Options(precisions=("fp32",)), force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle.rejected"}
    rejected = tmp_path / "bundle.rejected"
    assert Bundle.open(rejected).manifest.variants["fp32"].parity.agreement < 0.999
    with pytest.raises(ArtifactError, match="rejected at export"):
        Segmenter.load(rejected)


def test_a_folder_of_somebody_else_named_rejected_is_not_replaced(
    tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.rejected").mkdir()
    (tmp_path / "b.rejected" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"b\.rejected"):
        export(tiny_run, tmp_path / "b", Options(**LOW))
    assert (tmp_path / "b.rejected" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["b.rejected"]


def test_a_crash_while_exporting_leaves_the_old_bundle(
    tiny_run: Path, tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(tiny_export, out)

    def crash(*_: object) -> bytes:
        raise MemoryError("no memory")

    monkeypatch.setattr(exporting, "quantise_for_cpu", crash)
    with pytest.raises(MemoryError):
        export(tiny_run, out, Options(), force=True)
    Bundle.open(out).check_files()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("output", ["logits", "both"])
def test_logits_can_be_exported_and_give_the_same_class_maps(
    tiny_run: Path, tiny_export: Path, tmp_path: Path, output: str
) -> None:
    options = Options(precisions=("fp32",), output=output, **LOW)
    export(tiny_run, tmp_path / "b", options)
    image = open_source("synthetic:1+1").split("val").image(0)
    expected = Segmenter.load(tiny_export, "ort:cpu", "fp32")(image).class_map
    found = Segmenter.load(tmp_path / "b", "ort:cpu", "fp32")(image).class_map
    assert np.mean(found == expected) >= 0.999


def test_a_dynamic_bundle_runs_at_the_size_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    export(tiny_run, tmp_path / "b", Options(dynamic_size=True, **LOW))
    image = open_source("synthetic:1+1").split("val").image(0)
    small, large = (
        Segmenter.load(tmp_path / "b", size=size)(image).class_map for size in ((16, 16), (64, 96))
    )
    assert small.shape == large.shape == image.shape[:2]
    assert (small != large).any()
    with pytest.raises(UsageError, match="multiple of 4"):
        Segmenter.load(tmp_path / "b", size=(30, 31))


def test_another_size_is_padded_and_stays_static(tiny_run: Path, tmp_path: Path) -> None:
    export(tiny_run, tmp_path / "b", Options(precisions=("fp32",), size=(30, 45), **LOW))
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.input.shape == ("batch", 30, 45, 3)
    with pytest.raises(UsageError, match="--dynamic size"):
        Segmenter.load(bundle, size=(32, 48))


def test_the_manifest_names_a_data_set_without_the_folders_above_it() -> None:
    assert exporting._public_name("folder:/home/me/secret/street") == "folder:street"
    assert exporting._public_name("synthetic") == "synthetic"


def test_data_with_other_classes_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for folder in ("images", "annotations"):
            (tmp_path / folder / split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / "a.png")
        Image.new("L", (8, 8)).save(tmp_path / "annotations" / split / "a.png")
    with pytest.raises(InputError, match="other classes"):
        export(tiny_run, tmp_path / "b", Options(calibration=f"folder:{tmp_path}"))
    assert not (tmp_path / "b").exists()


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["export", *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_the_command_prints_one_json_document(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--precision fp32 --min-agreement 0.9 --max-miou-drop 0.0005 --json"
    assert run_cli(str(tiny_run), "--out", str(tmp_path / "b"), *options.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    parity = document["variants"]["fp32"]["parity"]
    assert parity["min_agreement"] == 0.999  # a flag tightens fp32's gates, never loosens them
    assert parity["max_miou_drop"] == 0.0005


def test_a_missed_gate_is_exit_5(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "b")
    status = run_cli(
        str(tiny_run), "--out", out, "--min-agreement", "1", "--quiet", "--calibration-images", "1"
    )
    error = capsys.readouterr().err
    assert status == 5
    assert "agreement with PyTorch" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--precision", "fp4"], 2, "no precision 'fp4'"),
        (["--target", "tensorrt"], 2, "int8 for --target tensorrt"),
        (["--dynamic", "size", "--size", "30x30"], 2, "multiples of 4"),
        (["--calibration", "folder:/nowhere"], 3, "does not exist"),
        (["--min-agreement", "2"], 2, "min-agreement"),
        (["--output", "pixels"], 2, "output"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    words: str,
) -> None:
    assert run_cli(str(tiny_run), "--out", str(tmp_path / "b"), "--quiet", *options) == status
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_exit_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(str(tmp_path / "none"), "--out", str(tmp_path / "b")) == 4
    assert "does not exist" in capsys.readouterr().err.splitlines()[-1]
