"""Layer by layer: where does an exported graph leave PyTorch?

Every weighted layer of the network is watched in PyTorch (forward hooks) and in ONNX Runtime
(extra outputs), on the same real images. The first layer that leaves tolerance is where to look:
what lies behind it only inherits its error. ``edgeseg export RUN --debug-layers``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from edgeseg.manifest import Precision
from edgeseg.sessions.ort import PROVIDERS, create_session
from edgeseg_export import material
from edgeseg_export.graph.torch_export import INPUT, fold_batch_norm, layer_name, to_onnx
from edgeseg_export.options import Options
from edgeseg_export.parity.judge import as_nchw, watch
from edgeseg_export.precision.calibration import observe
from edgeseg_export.precision.half import emulate_bfloat16
from edgeseg_export.precision.variants import Kind, make, selected
from edgeseg_train.run_folder import load_network, read_config
from edgeseg_train.unet import SegmentationNetwork

IMAGES = 4

# Root of the mean squared error over root of the mean squared signal, per layer.
TOLERANCES: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 1e-2,
    "bf16": 5e-2,
    "int8": 0.25,
    "fp8": 0.25,
}


@dataclass(frozen=True)
class LayerDifference:
    """One layer's output against PyTorch's.

    Attributes:
        layer: its name in PyTorch.
        largest: the largest absolute value in PyTorch.
        max_difference: the largest absolute difference.
        relative: root mean square of the difference over that of the signal.
    """

    layer: str
    largest: float
    max_difference: float
    relative: float


@dataclass(frozen=True)
class LayerReport:
    """All layers of a variant, in the order of the graph."""

    variant: str
    tolerance: float
    layers: tuple[LayerDifference, ...]

    @property
    def first_off(self) -> LayerDifference | None:
        """The first layer out of tolerance."""
        off = (layer for layer in self.layers if not layer.relative <= self.tolerance)
        return next(off, None)

    @property
    def verdict(self) -> str:
        """What was found, in one line."""
        if self.first_off is None:
            return f"{self.variant}: all {len(self.layers)} layers within tolerance"
        return (
            f"{self.variant}: layer {self.first_off.layer} is the first to leave tolerance, error "
            f"{self.first_off.relative:.2%} of the signal (allowed {self.tolerance:.2%})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all values, with the verdict, for JSON: None stands for what is no number."""
        first = self.first_off.layer if self.first_off else None
        layers = [_finite(asdict(layer)) for layer in self.layers]
        return {**asdict(self), "layers": layers, "first_off": first}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    bad = [key for key, value in values.items() if isinstance(value, float) and not isfinite(value)]
    return {**values, **dict.fromkeys(bad)}


def debug_layers(
    run: Path, options: Options, tell: Callable[[str], None] = lambda text: None
) -> list[LayerReport]:
    """Compare every layer of every chosen variant with PyTorch; writes nothing.

    Raises:
        ArtifactError, InputError, UsageError: see ``edgeseg_export.exporting.export``.
    """
    kinds = selected(options.precisions, options.target)
    config = read_config(run)
    network = load_network(run, config)
    sizes = options.all_sizes(config)
    source = material.open_data(config, options)
    fits = [config.preprocessing.at(size) for size in sizes]
    images = material.evaluation_images(source, IMAGES, fits[0])
    master = to_onnx(network, *sizes[0], output=options.output, dynamic_size=options.free_size)
    calibration = material.calibration_images(source, options, fits)
    quantised = any(kind.recipe for kind in kinds)
    ranges = observe(master, calibration.images, options.calibration_method) if quantised else {}
    expected = torch_outputs(network, images)
    reports = []
    for kind in kinds:
        tell(f"{kind.name}: comparing {len(expected)} layers on {len(images)} images")
        found = onnx_outputs(kind, master, make(kind, master, ranges), images)
        reports.append(_report(kind, expected, found))
    return reports


@torch.inference_mode()
def torch_outputs(
    network: SegmentationNetwork, images: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Return the output of each weighted layer, batch norm folded in, float32 (N, C, h, w).

    Of upsampling layers that is the enlarged result, whichever nodes make it in a graph.
    """
    folded = fold_batch_norm(network)
    outputs: dict[str, list[NDArray[np.float32]]] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        # Cloned, because an in-place activation behind the layer would overwrite it.
        return lambda module, args, out: outputs.setdefault(name, []).append(out.clone().numpy())

    for name, module in folded.unet.named_modules():
        if isinstance(module, nn.PixelShuffle):
            module.register_forward_hook(keep(_convolution_before(name)))
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not _shuffled(folded, name):
            module.register_forward_hook(keep(name))
    for image in images:
        folded(torch.tensor(image)[None])
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def _convolution_before(shuffle: str) -> str:
    return f"{shuffle.rpartition('.')[0]}.0"


def _shuffled(network: SegmentationNetwork, convolution: str) -> bool:
    names = {n for n, m in network.unet.named_modules() if isinstance(m, nn.PixelShuffle)}
    return convolution in {_convolution_before(name) for name in names}


def onnx_outputs(
    kind: Kind, master: bytes, model: bytes, images: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Return the same from a variant of ``master``, by the layers' names in PyTorch."""
    graph = onnx.load_from_string(model)
    if kind.precision == "bf16":
        graph = emulate_bfloat16(graph)
    watched = _watch(graph, _enlarged(onnx.load_from_string(master)))
    session = create_session(
        graph.SerializeToString(), PROVIDERS["ort:cpu"], kind.name, kind.target
    )
    outputs = [output for outputs in watched.values() for output in outputs]
    found: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in watched}
    for image in images:
        values = dict(zip(outputs, session.run(outputs, {INPUT: image[None]}), strict=True))
        for layer, names in watched.items():
            found[layer].append(as_nchw([values[name] for name in names], image.shape[:2]))
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def _enlarged(master: onnx.ModelProto) -> dict[str, str]:
    """Return the tensor that each upsampling layer of the master ends in."""
    shuffled = {n.input[0]: n.output[0] for n in master.graph.node if n.op_type == "DepthToSpace"}
    return {
        layer_name(node): shuffled.get(node.output[0], node.output[0])
        for node in master.graph.node
        if node.op_type == "ConvTranspose" or node.output[0] in shuffled
    }


def _watch(model: onnx.ModelProto, enlarged: dict[str, str]) -> dict[str, list[str]]:
    """Make each layer's results float32 outputs; return layer name to output names."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    watched: dict[str, list[str]] = {}
    for node in list(model.graph.node):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        weight = made_by.get(node.input[1])
        layer = layer_name(weight or node, 0 if weight else 1)
        output = f"{layer}_watched{len(watched.get(layer, []))}"
        watched.setdefault(layer, []).append(output)
        source = enlarged.get(layer, node.output[0])
        watch(model, source, output)
    return watched


def _report(
    kind: Kind,
    expected: dict[str, NDArray[np.float32]],
    found: dict[str, NDArray[np.float32]],
) -> LayerReport:
    layers = []
    for name, signal in expected.items():
        height, width = found[name].shape[2:]  # some graphs crop before the head, some behind it
        signal = signal[:, :, :height, :width]
        difference = found[name].astype(np.float64) - signal
        power = float(np.sqrt(np.mean(signal.astype(np.float64) ** 2)))
        error = float(np.sqrt(np.mean(difference**2)))
        layers.append(
            LayerDifference(
                layer=name,
                largest=float(np.abs(signal).max()),
                max_difference=float(np.abs(difference).max()),
                relative=error / power if power else error,
            )
        )
    return LayerReport(kind.name, TOLERANCES[kind.precision], tuple(layers))
