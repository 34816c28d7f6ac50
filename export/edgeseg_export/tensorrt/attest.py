"""Which precision has each layer of the parsed network? Asked before hours of building.

In a strongly typed network the tensors' types are binding. A convolution is 8-bit when what it
reads was dequantised from 8 bits: TensorRT then fuses the pair into an 8-bit kernel.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from edgeseg.engines.document import Convolution, LayerCount, NetworkAttestation
from edgeseg.engines.library import Library
from edgeseg.errors import ArtifactError, show
from edgeseg.manifest import Precision

# Layers of an 8-bit variant that are too sensitive compute in fp16; none may fall back to fp32.
_ALLOWED: dict[Precision, set[str]] = {"int8": {"int8", "fp16"}, "fp8": {"fp8", "fp16"}}
_NAMES = {"FLOAT": "fp32", "HALF": "fp16"}


def attest_network(library: Library, network: Any) -> NetworkAttestation:
    """Read the types of a parsed, strongly typed network."""
    trt = library.module
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {
        layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)
    }
    # The common base class has no kernel; NVIDIA's samples change the class like this.
    kinds = {
        trt.LayerType.CONVOLUTION: trt.IConvolutionLayer,
        trt.LayerType.DECONVOLUTION: trt.IDeconvolutionLayer,
    }
    convolutions = []
    counts: Counter[tuple[str, str]] = Counter()
    for layer in layers:
        kind = layer.type.name.lower()
        if layer.type in kinds:
            layer.__class__ = kinds[layer.type]
            convolution = _convolution(trt, layer, kind, producers)
            convolutions.append(convolution)
            counts[kind, convolution.precision] += 1
        else:
            counts[kind, _precision(layer.get_output(0))] += 1
    return NetworkAttestation(
        convolutions=tuple(convolutions),
        layers=tuple(
            LayerCount(layer=kind, precision=precision, layers=number)
            for (kind, precision), number in sorted(counts.items())
        ),
    )


def check_network(found: NetworkAttestation, requested: Precision, name: str) -> None:
    """Check that the convolutions have the precision that the variant claims.

    Raises:
        ArtifactError: none has it, or one has another than the variant may hold.
    """
    counts = Counter(convolution.precision for convolution in found.convolutions)
    weights = Counter(convolution.weights_precision for convolution in found.convolutions)
    # 8-bit weights alone count: that is all that TensorRT-RTX does with int8.
    present = counts[requested] + weights[requested] > 0
    if not present or counts.keys() - _ALLOWED.get(requested, {requested}):
        there = ", ".join(f"{n} {precision}" for precision, n in counts.items()) or "none"
        raise ArtifactError(
            f"{show(name)} is to be {requested} but its convolutions are: {there}; an engine of "
            "it would not be what was asked for; export the variant again"
        )


def _convolution(trt: Any, layer: Any, kind: str, producers: dict[str, Any]) -> Convolution:
    precision = _stored_precision(trt, layer.get_input(0), producers)
    kernel = layer.get_input(1) if layer.num_inputs > 1 else None
    if kernel is None:
        weights, weights_precision = int(layer.kernel.size), precision
    else:  # a kernel behind a dequantisation comes as a second input
        weights = math.prod(kernel.shape)
        weights_precision = _stored_precision(trt, kernel, producers)
    return Convolution(
        name=layer.name,
        layer=kind,
        precision=precision,
        weights_precision=weights_precision,
        weights=weights,
    )


def _stored_precision(trt: Any, tensor: Any, producers: dict[str, Any]) -> str:
    """Return the type that ``tensor`` is kept in: before a dequantisation, not after it."""
    producer = producers.get(tensor.name)
    if producer is not None and producer.type == trt.LayerType.DEQUANTIZE:
        return _precision(producer.get_input(0))
    return _precision(tensor)


def _precision(tensor: Any) -> str:
    name = str(tensor.dtype.name)
    return _NAMES.get(name, name.lower())
