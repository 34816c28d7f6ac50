"""Graphs of every precision, bundles around them, and the command line, for the build tests."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgeseg.bundle import Bundle
from edgeseg.cli.main import main
from edgeseg.files import sha256_bytes
from edgeseg.labels import numbered_labels
from edgeseg.manifest import (
    FileEntry,
    Flips,
    LogitDifference,
    Manifest,
    ModelInfo,
    Parity,
    Variant,
    write_manifest_bytes,
)
from edgeseg.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from edgeseg_export.graph.torch_export import INPUT, tensor_specs, to_onnx
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

SIDE = 32
CLASSES = 7
Graphs = dict[str, bytes]


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """ONNX files of one small U-Net: fp32, fp16, int8, fp8 and, with a free size, dynamic."""
    torch.manual_seed(0)
    config = UNetConfig(
        num_classes=CLASSES,
        features=(4, 8),
        norm="both",
        activation="relu",
        upsample="pixelshuffle",
    )
    network = SegmentationNetwork(UNet(config), IMAGENET_MEAN, IMAGENET_STD).eval()
    fp32 = to_onnx(network, SIDE, SIDE)
    half = convert_float_to_float16(onnx.load_from_string(fp32), keep_io_types=True)
    folder = tmp_path_factory.mktemp("graphs")
    return {
        "fp32": fp32,
        "fp16": half.SerializeToString(),
        "int8": _quantised(fp32, folder, QuantType.QInt8, CalibrationMethod.MinMax),
        "fp8": _quantised(fp32, folder, QuantType.QFLOAT8E4M3FN, CalibrationMethod.Distribution),
        "dynamic": to_onnx(network, SIDE, SIDE, dynamic_size=True),
    }


class _Images(CalibrationDataReader):
    def __init__(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (4, 1, SIDE, SIDE, 3), dtype=np.uint8)
        self._images = iter(pixels)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image}


def _quantised(model: bytes, folder: Path, kind: QuantType, method: CalibrationMethod) -> bytes:
    source, target = folder / "source.onnx", folder / "target.onnx"
    source.write_bytes(model)
    quantize_static(
        source,
        target,
        _Images(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Concat", "MaxPool"],
        activation_type=kind,
        weight_type=kind,
        calibrate_method=method,
        extra_options={"ActivationSymmetric": True, "QuantizeBias": False},
    )
    return target.read_bytes()


MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle: ``make_bundle(fp16=(model, "fp16"), cpu=(model, "int8", "cpu"))``."""

    def make(
        *,
        sizes: tuple[tuple[int, int], ...] = ((SIDE, SIDE),),
        dynamic_size: bool = False,
        **variants: tuple[bytes, str] | tuple[bytes, str, str],
    ) -> Bundle:
        folder = tmp_path / "bundle"
        folder.mkdir()
        contents = {f"model.{name}.onnx": entry[0] for name, entry in variants.items()}
        contents["reference.npz"] = b"never read here"
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        free = dynamic_size or len(sizes) > 1
        image, outputs = tensor_specs(*sizes[0], CLASSES, output="classmap", dynamic_size=free)
        manifest = Manifest(
            schema_version=2,
            model=MODEL,
            labels=numbered_labels(CLASSES),
            preprocessing=Preprocessing(height=sizes[0][0], width=sizes[0][1]),
            dynamic_size=dynamic_size,
            sizes=sizes,
            input=image,
            outputs=outputs,
            variants={name: _variant(name, *entry[1:]) for name, entry in variants.items()},
            files={
                name: FileEntry(sha256=sha256_bytes(data), bytes=len(data))
                for name, data in contents.items()
            },
            toolchain={},
        )
        (folder / "manifest.json").write_bytes(write_manifest_bytes(manifest))
        return Bundle.open(folder)

    return make


def _variant(name: str, precision: str, target: str = "any") -> Variant:
    return Variant(
        file=f"model.{name}.onnx",
        precision=precision,
        target=target,
        opset=20,
        calibration=None,
        parity=PARITY,
    )


MODEL = ModelInfo(
    name="unet", weights_sha256="0" * 64, parameters=1, gflops=0, size_multiple=4, config={}
)
# Made up: building an engine looks at the gates only.
PARITY = Parity(
    images=1,
    measured_with="nothing",
    agreement=1,
    reference_agreement=1,
    min_agreement=0.9,
    max_flip_margin=0,
    flips=Flips(pixels=1, boundary=0, interior=0, wide=0, by_margin=(0,)),
    max_wide_flips=0.1,
    torch_miou=0.5,
    miou=0.5,
    miou_interval=None,
    class_iou_delta=(None,),
    max_miou_drop=0.1,
    logits=LogitDifference(images=1, max=0, mean=0),
)


@dataclass(frozen=True)
class Finished:
    """What a command left behind: its exit status and everything it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Cli = Callable[..., Finished]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where the engines of this test go; the command makes it."""
    return tmp_path / "engines"


@pytest.fixture
def edgeseg(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command in this process: ``edgeseg("build", bundle.path)``."""

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return Finished(done.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def fake_tensorrt() -> Any:
    """The module with the double of ``tensorrt``; see there."""
    path = Path(__file__).with_name("fake_tensorrt.py")
    spec = importlib.util.spec_from_file_location("fake_tensorrt", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
