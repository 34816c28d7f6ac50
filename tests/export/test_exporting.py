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
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import Preprocessing
from edgeseg.segmenter import Segmenter
from edgeseg_export import exporting
from edgeseg_export.exporting import export
from edgeseg_export.material import public_name
from edgeseg_export.options import Options
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.run.job import Job
from edgeseg_train.run.training import train
from edgeseg_train.run_folder import load_network, read_config
from edgeseg_train.unet import UNetConfig

LOW = {"min_agreement": 0.5, "max_miou_drop": 0.5, "calibration_images": 8, "max_wide_flips": 1}


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

    monkeypatch.setattr(exporting, "observe", crash)
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
    export(tiny_run, tmp_path / "b", Options(precisions=("fp32",), sizes=((30, 45),), **LOW))
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.input.shape == ("batch", 30, 45, 3)
    with pytest.raises(UsageError, match="--sizes or --dynamic size"):
        Segmenter.load(bundle, size=(32, 48))


def test_the_manifest_names_a_data_set_without_the_folders_above_it() -> None:
    assert public_name("folder:/home/me/secret/street") == "folder:street"
    assert public_name("synthetic") == "synthetic"


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
    assert document["schema_version"] == 2
    parity = document["variants"]["fp32"]["parity"]
    assert parity["min_agreement"] == 0.999  # a flag tightens fp32's gates, never loosens them
    assert parity["max_miou_drop"] == 0.0005


def test_a_missed_gate_is_exit_5(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "b")
    status = run_cli(
        str(tiny_run), "--out", out, "--min-agreement", "1", "--quiet", "--calibration-images", "8"
    )
    error = capsys.readouterr().err
    assert status == 5
    assert "agreement with PyTorch" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--precision", "fp4"], 2, "no precision 'fp4'"),
        (["--precision", "fp8"], 2, "'fp8' is for TensorRT; add --target tensorrt"),
        (["--precision", "bf16"], 2, "'bf16' is for TensorRT"),
        (["--target", "jetson"], 2, "target"),
        (["--dynamic", "size", "--size", "30x30"], 3, "nearest: 32x32"),
        (["--sizes", "32x32,48x50"], 3, "size 48x50 does not fit"),
        (["--sizes", "32x32,32x32"], 2, "the same size twice"),
        (["--sizes", "32x32", "--size", "32x32"], 2, "exclude each other"),
        (["--sizes", "32x32", "--dynamic", "size"], 2, "exclude each other"),
        (["--calibration-images", "7"], 2, "calibration-images"),
        (["--calibration-method", "guess"], 2, "calibration-method"),
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


def test_every_variant_goes_into_the_bundle_measured_and_runs(
    tiny_run: Path, tmp_path: Path
) -> None:
    options = Options(
        precisions=("fp16", "bf16", "int8", "fp8"), target="all", parity_images=2, **LOW
    )
    manifest = export(tiny_run, tmp_path / "b", options)
    assert {name: (v.precision, v.target, v.opset) for name, v in manifest.variants.items()} == {
        "fp32": ("fp32", "any", 20),
        "fp16": ("fp16", "any", 20),
        "bf16": ("bf16", "tensorrt", 22),
        "int8-cpu": ("int8", "cpu", 20),
        "int8-trt": ("int8", "tensorrt", 20),
        "fp8-trt": ("fp8", "tensorrt", 20),
    }
    image = open_source("synthetic:1+1").split("val").image(0)
    for name, variant in manifest.variants.items():
        assert (variant.calibration is None) == (variant.precision not in ("int8", "fp8"))
        assert variant.parity.images == 2
        assert 0 < variant.parity.logits.max < 10 or name == "fp32"
        if name == "bf16":
            assert "rounded to bf16" in variant.parity.measured_with
            with pytest.raises(UsageError, match="'bf16' has no kernels on ort:cpu"):
                Segmenter.load(tmp_path / "b", "ort:cpu", name)
        else:
            Segmenter.load(tmp_path / "b", "ort:cpu", name)(image)


def test_a_bucketed_bundle_is_measured_and_runs_at_each_of_its_sizes(
    tiny_run: Path, tmp_path: Path
) -> None:
    sizes = ((32, 48), (64, 96))
    manifest = export(tiny_run, tmp_path / "b", Options(sizes=sizes, parity_images=2, **LOW))
    assert manifest.sizes == sizes
    assert not manifest.dynamic_size
    assert manifest.input.shape == ("batch", "height", "width", 3)
    for variant in manifest.variants.values():
        assert list(variant.parity_at) == ["64x96"]
        assert variant.parity_at["64x96"].flips.pixels == 2 * 64 * 96
    image = open_source("synthetic:1+1").split("val").image(0)
    for size in sizes:
        assert Segmenter.load(tmp_path / "b", size=size)(image).class_map.shape == image.shape[:2]
    with pytest.raises(UsageError, match="runs at 32x48, 64x96 only"):
        Segmenter.load(tmp_path / "b", size=(48, 48))


def test_a_gate_missed_at_one_of_the_sizes_is_named_with_it(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporting.measure

    def spoiled(evaluation, judged, gates):
        parity = real(evaluation, judged, gates)
        large = evaluation.reference.images.shape[1] == 64
        return parity.model_copy(update={"agreement": 0.1}) if large else parity

    monkeypatch.setattr(exporting, "measure", spoiled)
    options = Options(precisions=("fp32",), sizes=((32, 48), (64, 96)), parity_images=2)
    with pytest.raises(GateFailed, match=r"fp32: at 64x96: agreement .* 10\.0000%"):
        export(tiny_run, tmp_path / "b", options)


def test_the_padding_is_announced(tiny_run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = Options(precisions=("fp32",), sizes=((30, 45),), parity_images=2)
    export(tiny_run, tmp_path / "b", options, tell=said.append)
    assert "at 30x45, padded inside to 32x48 and cropped back" in said[0]


def test_sensitivity_is_ranked_on_demand_and_shipped(tiny_run: Path, tmp_path: Path) -> None:
    options = Options(precisions=("int8",), sensitivity=True, parity_images=2, **LOW)
    manifest = export(tiny_run, tmp_path / "b", options)
    assert {"sensitivity.int8-cpu.json", "sensitivity.int8-cpu.png"} <= manifest.files.keys()
    document = json.loads((tmp_path / "b" / "sensitivity.int8-cpu.json").read_text())
    changed = [layer["changed"] for layer in document["layers"]]
    assert len(changed) == 13
    assert changed == sorted(changed, reverse=True)
    assert manifest.variants["int8-cpu"].float_layers == ()


def test_a_letterboxed_run_is_as_accurate_on_the_device_as_its_training_said(
    tmp_path: Path,
) -> None:
    """Training, export and runtime share one rule, bars and all."""
    source = open_source("synthetic:8+4")
    train(
        Job(
            source,
            UNetConfig(features=(4, 8), norm="both", activation="relu", upsample="pixelshuffle"),
            Preprocessing(height=32, width=48, resize="letterbox"),
            TrainingConfig(epochs=2, batch_size=4, lr=1e-2, schedule="onecycle"),
        ),
        tmp_path / "run",
    )
    manifest = export(tmp_path / "run", tmp_path / "b", Options(precisions=("fp32",), **LOW))
    assert manifest.preprocessing.resize == "letterbox"
    split, matrix = source.split("val"), ConfusionMatrix(150)
    with Segmenter.load(tmp_path / "b", "ort:cpu", "fp32") as segmenter:
        for index in range(len(split.names)):
            matrix.update(split.mask(index), segmenter(split.image(index)).class_map)
    recorded = read_config(tmp_path / "run").result
    assert matrix.mean_iou == pytest.approx(recorded.val_miou, abs=1e-4)
    assert matrix.pixel_accuracy == pytest.approx(recorded.val_pixel_accuracy, abs=1e-4)
