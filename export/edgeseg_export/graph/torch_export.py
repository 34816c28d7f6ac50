"""From the trained network to one clean, deterministic ONNX graph.

uint8 NHWC picture -> normalise -> U-Net -> class map (uint8) and/or logits. Opset 20, so
that one file also serves the TensorRT 10.3 of JetPack 6.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Literal

import onnx
import onnxslim
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeseg.errors import ArtifactError, first_line
from edgeseg.manifest import TensorSpec
from edgeseg_train.unet import SegmentationNetwork

OPSET = 20
INPUT = "images"
CLASS_MAP = "class_map"
LOGITS = "logits"
MAX_BATCH = 1024
MAX_BYTES = 2**31 - 2**20  # a protobuf file ends at 2 GiB; the rest is for the graph

OutputKind = Literal["classmap", "logits", "both"]


class DeployedNetwork(nn.Module):
    """What the exported graph computes; export and nothing else uses this wrapper."""

    def __init__(self, network: SegmentationNetwork, output: OutputKind) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return class map uint8 (N, H, W), logits float (N, C, H, W), or both in this order."""
        logits: Tensor = self.network(images)
        if self.output == "logits":
            return logits
        class_map = logits.argmax(dim=1).to(torch.uint8)  # Cast last: see SegmentationNetwork
        return class_map if self.output == "classmap" else (class_map, logits)


def fold_batch_norm(network: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy in which every batch norm is folded into the convolution before it.

    With frozen statistics a batch norm is a scale and shift per channel, so folding changes
    the result by rounding only. The positions in ``nn.Sequential`` stay (as ``nn.Identity``).
    """
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for i in range(1, len(module)):
            convolution, norm = module[i - 1], module[i]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[i - 1] = fuse_conv_bn_eval(convolution, norm)
                module[i] = nn.Identity()
    return folded


def to_onnx(
    network: SegmentationNetwork,
    height: int,
    width: int,
    *,
    output: OutputKind = "classmap",
    dynamic_size: bool = False,
) -> bytes:
    """Export a network.

    Args:
        network: trained, any mode.
        height: the input's height; with ``dynamic_size`` only the example's.
        width: the input's width, likewise.
        output: what the graph returns.
        dynamic_size: height and width stay free, in multiples of ``2 ** depth``; otherwise
            any size is allowed and padding happens inside the graph.

    Returns:
        A checked ONNX file; the same network gives the same bytes.

    Raises:
        ArtifactError: the exporter or the checker refuses the network, or it is too large.
    """
    _check_size(network)
    deployed = fold_batch_norm(network)
    deployed.pad = not dynamic_size
    multiple = network.unet.config.size_multiple
    wrapper = DeployedNetwork(deployed, output).eval()
    # Two images: an example batch of one would be taken for a constant.
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    try:
        with quiet():
            program = torch.onnx.export(
                wrapper,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(_output_names(output)),
                dynamic_shapes={INPUT: _dynamic_dims(dynamic_size, multiple)},
                verbose=False,
            )
            if program is None:
                raise ArtifactError("the ONNX exporter returned nothing")
            model = onnxslim.slim(program.model_proto)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        cause = _root_cause(error)
        if isinstance(cause, KeyboardInterrupt):  # the exporter wraps that, too
            raise cause from None
        raise ArtifactError(
            f"the ONNX exporter failed at opset {OPSET}: {first_line(cause)}"
        ) from error
    _clean(model)
    _check_opset(model)
    return checked_bytes(model)


def layer_name(node: onnx.NodeProto, weight_at: int = 1) -> str:
    """Return a layer's name in PyTorch, such as ``downs.0.conv.3``, from its weight's name.

    ``weight_at`` is the position of the weight among the node's inputs.
    """
    weight: str = node.input[weight_at].removeprefix("network.unet.")
    return weight.partition(".weight")[0]


def _check_size(network: SegmentationNetwork) -> None:
    weights = sum(tensor.numel() * 4 for tensor in network.parameters())
    if weights > MAX_BYTES:
        raise ArtifactError(
            f"the network has {weights / 1e9:.2f} GB of weights, but an ONNX file holds at most "
            f"{MAX_BYTES / 1e9:.2f} GB; train one with fewer features"
        )


def _check_opset(model: onnx.ModelProto) -> None:
    """The exporter falls back to another opset without an error where it cannot convert."""
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found.get("") != OPSET:
        raise ArtifactError(
            f"the ONNX exporter wrote opset {found.get('')} instead of {OPSET}; install the "
            "versions of torch and onnxscript that this release asks for"
        )


def tensor_specs(
    height: int, width: int, num_classes: int, *, output: OutputKind, dynamic_size: bool
) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """Return the graph's input and outputs as the manifest describes them."""
    size: tuple[int | str, int | str] = ("height", "width") if dynamic_size else (height, width)
    known = {
        CLASS_MAP: TensorSpec(name=CLASS_MAP, dtype="uint8", shape=("batch", *size)),
        LOGITS: TensorSpec(name=LOGITS, dtype="float32", shape=("batch", num_classes, *size)),
    }
    image = TensorSpec(name=INPUT, dtype="uint8", shape=("batch", *size, 3))
    return image, tuple(known[name] for name in _output_names(output))


def checked_bytes(model: onnx.ModelProto) -> bytes:
    """Return the model as a file's bytes after ``onnx.checker`` with shape inference.

    Raises:
        ArtifactError: the checker refuses it.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"the exported graph is invalid: {first_line(error)}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _root_cause(error: BaseException) -> BaseException:
    """Return what the exporter's layers of explanations are about."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _output_names(output: OutputKind) -> tuple[str, ...]:
    return {"classmap": (CLASS_MAP,), "logits": (LOGITS,), "both": (CLASS_MAP, LOGITS)}[output]


def _dynamic_dims(dynamic_size: bool, multiple: int) -> dict[int, object]:
    dims: dict[int, object] = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    if dynamic_size:
        dims[1] = multiple * torch.export.Dim("rows", min=1, max=1024)
        dims[2] = multiple * torch.export.Dim("columns", min=1, max=1024)
    return dims


def _clean(model: onnx.ModelProto) -> None:
    """Drop what varies between runs or tells about the exporting machine (stack traces, paths)."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type in ("Conv", "ConvTranspose"):
            node.name = layer_name(node)  # what TensorRT and every message will call it
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        rank = len(value.type.tensor_type.shape.dim)
        for position, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                dim.dim_param = _dim_name(position, rank, nhwc=value.name == INPUT)


def _dim_name(position: int, rank: int, *, nhwc: bool) -> str:
    if position == 0:
        return "batch"
    height_at = 1 if nhwc else rank - 2
    return "height" if position == height_at else "width"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what exporters and quantisers print, and their advice."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
