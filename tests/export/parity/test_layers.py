"""Layer by layer: a good export is within tolerance, a spoiled layer is named first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgeseg.cli.main import main
from edgeseg_export import material
from edgeseg_export.exporting import export
from edgeseg_export.options import Options
from edgeseg_export.parity import layers
from edgeseg_export.parity.layers import TOLERANCES, LayerReport, debug_layers, torch_outputs
from edgeseg_export.precision.variants import KINDS
from edgeseg_train.run_folder import load_network, read_config

ORDER = (
    *(f"downs.{level}.conv.{i}" for level in (0, 1) for i in (0, 3)),
    *(f"bottleneck.conv.{i}" for i in (0, 3)),
    "ups.0.0",
    *(f"ups.1.conv.{i}" for i in (0, 3)),
    "ups.2.0",
    *(f"ups.3.conv.{i}" for i in (0, 3)),
    "final_conv",
)
EVERYTHING = Options(
    precisions=("fp16", "bf16", "int8", "fp8"),
    target="all",
    calibration_images=8,
    parity_images=2,
)
Spoil = Callable[[str, str, float], None]
FP32 = Options(precisions=("fp32",), parity_images=2)


@pytest.fixture(scope="module")
def master(tiny_run: Path) -> bytes:
    return layers.to_onnx(load_network(tiny_run, read_config(tiny_run)), 32, 48)


@pytest.fixture
def spoil(master: bytes, monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Return what makes the export add ``change`` to one value of a layer's weight or bias."""

    def change_one(layer: str, what: str, change: float) -> None:
        model = onnx.load_from_string(master)
        name = f"network.unet.{layer}.{what}"
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += change
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        monkeypatch.setattr(layers, "to_onnx", lambda *_, **__: model.SerializeToString())

    return change_one


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["export", *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


@pytest.fixture(scope="module")
def reports(tiny_run: Path) -> dict[str, LayerReport]:
    return {report.variant: report for report in debug_layers(tiny_run, EVERYTHING)}


def test_every_variant_of_a_good_export_is_within_tolerance(
    reports: dict[str, LayerReport],
) -> None:
    assert list(reports) == ["fp32", "fp16", "bf16", "int8-cpu", "int8-trt", "fp8-trt"]
    for name, report in reports.items():
        assert tuple(layer.layer for layer in report.layers) == ORDER
        assert report.first_off is None
        assert report.verdict == f"{name}: all 13 layers within tolerance"
        assert report.tolerance == TOLERANCES[name.partition("-")[0]]


def test_the_errors_are_in_the_order_of_the_precisions(reports: dict[str, LayerReport]) -> None:
    at_the_end = {name: report.layers[-1].relative for name, report in reports.items()}
    assert at_the_end["fp32"] < at_the_end["fp16"] < at_the_end["bf16"] < at_the_end["fp8-trt"]
    assert at_the_end["fp16"] < at_the_end["int8-trt"] < at_the_end["fp8-trt"]
    assert at_the_end["fp32"] < 1e-6


def test_the_magnitudes_are_those_of_pytorchs_layers(
    tiny_run: Path, reports: dict[str, LayerReport]
) -> None:
    config = read_config(tiny_run)
    network = load_network(tiny_run, config)
    source = material.open_data(config, EVERYTHING)
    images = material.evaluation_images(source, layers.IMAGES, config.preprocessing)
    with torch.inference_mode():
        logits = network(torch.tensor(images))
    largest = reports["fp32"].layers[-1].largest
    assert largest == pytest.approx(logits.abs().max().item(), rel=1e-4)


def test_pytorchs_outputs_are_before_an_activation_in_place(make_network) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    found = torch_outputs(make_network(activation="relu"), images)
    assert found["downs.0.conv.0"].min() < 0


@pytest.mark.parametrize("layer", ["downs.0.conv.0", "bottleneck.conv.0", "ups.2.0", "final_conv"])
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_a_spoiled_layer_is_the_first_that_is_named(
    tiny_run: Path, spoil: Spoil, layer: str, what: str
) -> None:
    spoil(layer, what, 0.3)
    (report,) = debug_layers(tiny_run, FP32)
    assert report.first_off is not None
    assert report.first_off.layer == layer
    assert f"fp32: layer {layer} is the first to leave tolerance" in report.verdict
    before = report.layers[: ORDER.index(layer)]
    assert all(entry.relative < 1e-5 for entry in before)


def test_a_value_that_is_no_number_is_out_of_tolerance(tiny_run: Path, spoil: Spoil) -> None:
    spoil("ups.2.0", "bias", float("nan"))
    (report,) = debug_layers(tiny_run, FP32)
    assert report.first_off is not None
    assert report.first_off.layer == "ups.2.0"


def test_transposed_convolutions_are_watched_in_every_variant(make_network) -> None:
    network = make_network(activation="gelu", upsample="transpose", features=(4,))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    master = layers.to_onnx(network, 16, 16)
    ranges = layers.observe(master, images, "minmax")
    expected = torch_outputs(network, images)
    assert expected["ups.0"].shape == (2, 4, 16, 16)
    for kind in KINDS:
        model = layers.make(kind, master, ranges)
        found = layers.onnx_outputs(kind, master, model, images)
        assert found.keys() == expected.keys()
        for name, signal in expected.items():
            assert found[name].shape == signal.shape
            error = np.sqrt(np.mean((found[name] - signal) ** 2) / np.mean(signal**2))
            assert error < TOLERANCES[kind.precision] / 2


def test_the_command_names_all_layers_writes_nothing_and_ends_well(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()}
    out = tmp_path / "b"
    arguments = "--debug-layers --precision int8 --parity-images 2 --calibration-images 8"
    assert run_cli(str(tiny_run), "--out", str(out), *arguments.split()) == 0
    printed = capsys.readouterr().out
    for layer in ORDER:
        assert printed.count(f" {layer} ") == 2
    assert "fp32: all 13 layers within tolerance" in printed
    assert "int8-cpu: all 13 layers within tolerance" in printed
    assert list(tmp_path.iterdir()) == []
    assert {path.name: path.stat().st_mtime_ns for path in tiny_run.iterdir()} == before


def test_the_command_prints_one_json_document(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--debug-layers --precision fp16 --parity-images 2 --json"
    assert run_cli(str(tiny_run), *arguments.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert [report["variant"] for report in document["reports"]] == ["fp32", "fp16"]
    for report in document["reports"]:
        assert tuple(layer["layer"] for layer in report["layers"]) == ORDER
        assert report["first_off"] is None


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@pytest.mark.parametrize("change", [0.3, float("nan")])
def test_a_spoiled_layer_is_exit_5_and_still_one_json_document(
    tiny_run: Path,
    tmp_path: Path,
    spoil: Spoil,
    capsys: pytest.CaptureFixture[str],
    change: float,
) -> None:
    spoil("downs.1.conv.0", "weight", change)
    arguments = "--debug-layers --precision fp32 --parity-images 2 --json"
    assert run_cli(str(tiny_run), "--out", str(tmp_path / "b"), *arguments.split()) == 5
    captured = capsys.readouterr()
    document = json.loads(captured.out, parse_constant=refuse)
    assert document["reports"][0]["first_off"] == "downs.1.conv.0"
    last = captured.err.splitlines()[-1]
    assert last.startswith("edgeseg: error: fp32: layer downs.1.conv.0 is the first")
    assert list(tmp_path.iterdir()) == []


def test_layers_are_compared_at_a_padded_size_too(tiny_run: Path) -> None:
    options = Options(precisions=("fp32",), sizes=((30, 45),), parity_images=1)
    (report,) = debug_layers(tiny_run, options)
    assert report.first_off is None
    assert tuple(layer.layer for layer in report.layers) == ORDER


def test_what_debugging_passes_export_passes(tiny_run: Path, tmp_path: Path) -> None:
    export(tiny_run, tmp_path / "b", FP32)
    assert (tmp_path / "b" / "manifest.json").is_file()
