"""Sensitivity: a layer that was made fragile on purpose is found, ranked first and mended."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeseg.errors import GateFailed
from edgeseg.preprocess import Preprocessing
from edgeseg_export.exporting import export
from edgeseg_export.graph.torch_export import to_onnx
from edgeseg_export.options import Options
from edgeseg_export.parity.evaluation import Evaluation, evaluate_torch
from edgeseg_export.parity.judge import OrtJudge
from edgeseg_export.precision.calibration import observe
from edgeseg_export.precision.sensitivity import (
    LayerSensitivity,
    Sensitivity,
    measure_sensitivity,
    picture,
)
from edgeseg_export.precision.variants import KINDS, Kind, make, quantised_layers
from edgeseg_train.unet import SegmentationNetwork

FRAGILE = "ups.3.conv.3"
BEFORE = "ups.3.conv.0"
KIND_OF = {kind.name: kind for kind in KINDS}


def spoil(weights: dict[str, torch.Tensor], factor: float = 1000) -> None:
    """Scale one channel between two layers up and back down: exact in float, ruinous in 8 bits.

    A ReLU passes positive factors, so the answers stay; the channel's range swallows the others'.
    """
    norm = BEFORE.replace("conv.0", "conv.1")
    weights[f"{norm}.weight"][0] *= factor
    weights[f"{norm}.bias"][0] *= factor
    weights[f"{FRAGILE}.weight"][:, 0] /= factor


@torch.no_grad()
def balance(network: SegmentationNetwork, images: np.ndarray) -> None:
    """Let every class be the answer somewhere; untrained networks answer with one."""
    means = network(torch.tensor(images)).mean((0, 2, 3))
    network.unet.final_conv.bias -= means


@pytest.fixture(scope="module")
def fragile_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "fragile"
    shutil.copytree(tiny_run, run)
    weights = load_file(run / "model.safetensors")
    spoil(weights)
    save_file(weights, run / "model.safetensors")
    config = json.loads((run / "config.json").read_text())
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    config["result"]["weights_sha256"] = digest
    (run / "config.json").write_text(json.dumps(config))
    return run


def judged(kind: Kind, network, images: np.ndarray) -> tuple[list[str], Evaluation, object]:
    master = to_onnx(network, *images.shape[1:3])
    ranges = observe(master, images, "minmax")
    truth = np.zeros(images.shape[1:3], dtype=np.uint8)
    fit = Preprocessing(height=truth.shape[0], width=truth.shape[1])
    evaluation = evaluate_torch(network, images, [truth] * len(images), fit)
    layers = quantised_layers(kind, master)
    return (
        layers,
        evaluation,
        lambda floats: OrtJudge(kind, make(kind, master, ranges, floats)),
    )


@pytest.mark.parametrize("name", ["int8-cpu", "int8-trt"])
def test_the_fragile_layer_ranks_first(make_network, name: str) -> None:
    network = make_network(activation="relu", upsample="pixelshuffle")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    balance(network, images)
    spoil(network.unet.state_dict())
    layers, evaluation, judge = judged(KIND_OF[name], network, images)
    said: list[str] = []
    ranking = measure_sensitivity(name, layers, judge, evaluation, said.append)
    assert sorted(entry.layer for entry in ranking.layers) == sorted(layers)
    first = [entry.layer for entry in ranking.layers[: 1 if name == "int8-trt" else 2]]
    assert FRAGILE in first  # on CPUs the head is in 8 bits, too, and this network has many ties
    usual = ranking.layers[len(layers) // 2].changed
    assert ranking.layers[0].changed > 10 * usual
    assert ranking.unquantised < 0.005
    assert (ranking.variant, ranking.images) == (name, 4)
    assert len(said) == len(layers)
    assert said[0].startswith(f"sensitivity 1/{len(layers)}: {layers[0]} alone changes")


def test_a_ranking_uses_at_most_sixteen_images(make_network) -> None:
    network = make_network(activation="relu", upsample="pixelshuffle", features=(4,))
    images = np.random.default_rng(0).integers(0, 256, (18, 8, 8, 3), dtype=np.uint8)
    layers, evaluation, judge = judged(KIND_OF["int8-cpu"], network, images)
    ranking = measure_sensitivity("int8-cpu", layers[:1], judge, evaluation, lambda text: None)
    assert ranking.images == 16


def options(**changes: object) -> Options:
    gates = {"min_agreement": 0.9, "max_miou_drop": 0.01}
    return Options(
        **{"precisions": ("int8",), "calibration_images": 8, "parity_images": 4, **gates, **changes}
    )


def test_an_export_with_tight_gates_puts_the_fragile_layer_back_in_float_and_passes(
    fragile_run: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    manifest = export(fragile_run, tmp_path / "b", options(target="all"), tell=said.append)
    # The CPU recipe quantises a layer's output, too, so there the ruined channel's maker goes too.
    expected = {"int8-cpu": (FRAGILE, BEFORE), "int8-trt": (FRAGILE,)}
    for name, layers in expected.items():
        variant = manifest.variants[name]
        assert variant.float_layers == layers
        assert variant.failures == []
        assert any(f"{name}: over budget: agreement" in line for line in said)
        document = json.loads((tmp_path / "b" / f"sensitivity.{name}.json").read_text())
        in_float = [entry["layer"] for entry in document["layers"] if entry["in_float"]]
        assert tuple(in_float) == layers
        png = (tmp_path / "b" / f"sensitivity.{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")


def test_gates_that_nothing_can_hold_fail_with_all_layers_still_quantised(
    fragile_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg_export import exporting

    real = exporting.measure

    def missed(evaluation, judged, gates):
        parity = real(evaluation, judged, gates)
        int8 = gates.min_agreement == 0.9
        return parity.model_copy(update={"agreement": 0.1}) if int8 else parity

    monkeypatch.setattr(exporting, "measure", missed)
    with pytest.raises(GateFailed, match=r"int8-cpu: agreement with PyTorch 10\.0000%"):
        export(fragile_run, tmp_path / "b", options())
    assert not (tmp_path / "b").exists()
    manifest = json.loads((tmp_path / "b.rejected" / "manifest.json").read_text())
    assert manifest["variants"]["int8-cpu"]["float_layers"] == []


def ranking_of(count: int) -> Sensitivity:
    layers = tuple(
        LayerSensitivity(layer=f"layer.{i}", changed=0.5 / (i + 1), miou_drop=0, in_float=i < 2)
        for i in range(count)
    )
    return Sensitivity(variant="int8-trt", images=16, unquantised=0.01, layers=layers)


def test_the_picture_is_a_png_that_grows_with_the_layers() -> None:
    heights = []
    for count in (1, 12, 50):
        with Image.open(io.BytesIO(picture(ranking_of(count)))) as png:
            assert png.format == "PNG"
            assert 800 <= png.width <= 1000
            assert len(png.convert("RGB").getcolors(2**24) or []) > 10  # something is drawn
            heights.append(png.height)
    assert heights == sorted(heights)
    assert heights[0] > 100
    assert 1000 < heights[2] < 2500


def test_the_picture_is_deterministic_and_shows_what_is_in_float() -> None:
    assert picture(ranking_of(5)) == picture(ranking_of(5))
    assert picture(ranking_of(5)) != picture(ranking_of(5).with_float(["layer.4"]))
