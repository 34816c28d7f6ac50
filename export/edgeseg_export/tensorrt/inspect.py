"""Which precision has each layer of the finished engine? TensorRT's inspector says it in JSON.

Two dialects are read: TensorRT 10 has ``Format/Datatype`` in one text, TensorRT 11 has
``Format`` and ``Datatype``. The texts vary with the layer, so only words in them are matched.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from edgeseg.engines.document import EngineAttestation, Flags, LayerCount
from edgeseg.engines.library import Library
from edgeseg.engines.log import failure
from edgeseg.errors import ArtifactError, show
from edgeseg.manifest import Precision

_WORDS = {
    "fp32": "fp32",
    "float": "fp32",
    "float32": "fp32",
    "fp16": "fp16",
    "half": "fp16",
    "float16": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
    "float8": "fp8",
    "e4m3": "fp8",
    "fp8e4m3": "fp8",
}
_COPIES = ("reformat", "noop", "copy")  # layers that only move or convert numbers
_CONVOLVES = re.compile(r"conv|gemm", re.IGNORECASE)


def attest_engine(library: Library, plan: bytes, flags: Flags) -> EngineAttestation:
    """Load the engine and read its layers.

    Raises:
        ArtifactError, DeviceError, ResourceError: it does not load, or tells nothing.
    """
    trt = library.module
    library.log.clear()
    runtime = trt.Runtime(library.logger)
    if flags.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan brings its own runtime
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise failure(library.log, f"{library.title} does not load the engine it has built")
    inspector = engine.create_engine_inspector()
    return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def read_layers(text: str) -> EngineAttestation:
    """Count the layers in the inspector's JSON by kind and precision.

    Raises:
        ArtifactError: no JSON, or layers without details.
    """
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"the engine inspector's answer is not readable: {error}") from error
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    if not detailed:
        raise ArtifactError("the engine inspector names layers without details")
    counts = Counter((_kind(layer), _precision(layer)) for layer in detailed)
    return EngineAttestation(
        layers=tuple(
            LayerCount(layer=kind, precision=precision, layers=number)
            for (kind, precision), number in sorted(counts.items())
        )
    )


def check_engine(found: EngineAttestation, requested: Precision, name: str) -> None:
    """Check that the engine computes at the precision that was asked for.

    Raises:
        ArtifactError: none of its convolutions does; or none of its layers, where the inspector
            does not tell which layers are convolutions.
    """
    computing = [row for row in found.layers if not _is_copy(row.layer)]
    convolutions = [row for row in computing if _CONVOLVES.search(row.layer)]
    considered = convolutions or computing
    if not any(row.precision == requested for row in considered):
        there = ", ".join(f"{row.layers} {row.layer} {row.precision}" for row in considered[:8])
        raise ArtifactError(
            f"the engine of {show(name)} has no layer at {requested}; found: {there or 'none'}; "
            "it is not what was asked for and is not kept"
        )


def _kind(layer: dict[str, Any]) -> str:
    """Return the layer's type; fused kernels of the compiler say in their name what they do."""
    kind = str(layer.get("LayerType", "unknown"))
    words = " ".join(str(layer.get(key, "")) for key in ("ParameterType", "Name", "TacticName"))
    if not _CONVOLVES.search(kind) and not _is_copy(kind) and _CONVOLVES.search(words):
        return f"{kind} (convolution)"
    return kind


def _is_copy(kind: str) -> bool:
    return kind.lower().startswith(_COPIES)


def _precision(layer: dict[str, Any]) -> str:
    """Return the precision of what a layer reads, or, if that is no such number, writes."""
    for side in ("Inputs", "Outputs"):
        for tensor in layer.get(side) or []:
            if isinstance(tensor, dict) and (precision := _tensor_precision(tensor)):
                return precision
    return "other"


def _tensor_precision(tensor: dict[str, Any]) -> str | None:
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format", ""))
    words = re.findall(r"[A-Za-z0-9]+", text.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), None)
