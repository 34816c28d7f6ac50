"""Making a session of ONNX Runtime, and turning what it says then into our errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeseg.errors import ArtifactError, DeviceError, first_line, show
from edgeseg.sessions.ort.library import CPU, import_onnxruntime
from edgeseg.sessions.ort.options import session_options
from edgeseg.sessions.ort.placement import check_placement, watch

# It quantises the float biases of Q/DQ convolutions to int32. With fp16 scales the quotient
# bias / scale overflows fp16, and fp8 graphs become wrong altogether (seen in 1.32).
_WRONG_FOR_TENSORRT_GRAPHS = ["WeightBiasQuantization"]


@dataclass(frozen=True)
class Provider:
    """An execution provider, its options, and its devices if it is a plugin."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Graph:
    """An ONNX file: its bytes, what to call it in messages, and the target of its variant."""

    model: bytes
    name: str
    target: str


def create_session(
    model: bytes, provider: str, name: str, target: str, threads: int | None = None
) -> Any:
    """Load a graph on a provider without options; see ``create`` for the errors.

    ``target`` is the variant's, ``threads`` None takes all that are ours.
    """
    return create(Graph(model, name, target), Provider(provider), threads)


def create(
    graph: Graph, provider: Provider, threads: int | None = None, *, allow_fallback: bool = False
) -> Any:
    """Load a graph on a provider, the whole graph unless ``allow_fallback``.

    Raises:
        ArtifactError: ONNX Runtime cannot load it on the CPU.
        DeviceError: the provider cannot load it, or does not run all of it.
    """
    onnxruntime = import_onnxruntime()
    options = session_options(onnxruntime, threads)
    accelerated = provider.name != CPU
    if accelerated:
        watch(onnxruntime, options, allow_fallback=allow_fallback)
    try:
        session = _start(onnxruntime, graph, provider, options)
    except Exception as error:  # ONNX Runtime's exceptions share no useful base class
        what = provider.name if accelerated else f"onnxruntime {onnxruntime.__version__}"
        kind = DeviceError if accelerated else ArtifactError
        raise kind(f"{what} cannot load {show(graph.name)}: {first_line(error)}") from error
    if not allow_fallback:
        check_placement(session, provider.name, graph.name)
    return session


def _start(onnxruntime: Any, graph: Graph, provider: Provider, options: Any) -> Any:
    arguments: dict[str, Any] = {}
    if provider.devices:
        # A plugin's provider must not be named as well: that would be instead.
        options.add_provider_for_devices(list(provider.devices), dict(provider.options))
    else:
        arguments["providers"] = [(provider.name, dict(provider.options))]
    session = onnxruntime.InferenceSession(
        graph.model,
        sess_options=options,
        enable_fallback=0,  # else it prints, and tries again on the CPU
        disabled_optimizers=_WRONG_FOR_TENSORRT_GRAPHS if graph.target == "tensorrt" else None,
        **arguments,
    )
    session._model_bytes = None  # kept for that second try; the network is in memory already
    return session
