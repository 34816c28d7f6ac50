"""A variant of a bundle on one of ONNX Runtime's execution providers.

    edgeseg run bundles/street photo.jpg --backend ort:cpu

What was asked for runs, or opening is an error. With ``Settings.allow_fallback`` it runs anyway,
and ``fallback`` says what runs where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import DeviceError
from edgeseg.manifest import TensorSpec
from edgeseg.sessions.base import BundleSession, check_tensors
from edgeseg.sessions.ort.creation import Graph, Provider, create
from edgeseg.sessions.ort.device import DeviceRunner
from edgeseg.sessions.ort.library import CPU, import_onnxruntime, problem
from edgeseg.sessions.ort.placement import fallback_of
from edgeseg.sessions.ort.providers import provider_for
from edgeseg.sessions.protocol import Settings

Run = Callable[[NDArray[np.uint8], TensorSpec], NDArray[Any]]

_ON_THE_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass(frozen=True)
class _Loaded:
    """A session of ONNX Runtime, how to run it, and what of it runs elsewhere."""

    session: Any
    run: Run
    fallback: str | None


class OrtSession(BundleSession):
    """One ONNX file in ONNX Runtime on one execution provider.

    On the CPU several threads run at a time; on CUDA and TensorRT one, others wait.
    """

    def __init__(self, bundle: Bundle, backend: str, variant: str, settings: Settings) -> None:
        """Load the variant.

        Raises:
            DeviceError: the provider is not there, or does not run the whole graph.
            ArtifactError: the file is corrupt or unsupported.
        """
        loaded = _load(bundle, backend, variant, settings)
        name = f"{bundle.path}:{variant}"
        tensors = [*loaded.session.get_inputs(), *loaded.session.get_outputs()]
        found = ((t.name, _DTYPES.get(t.type, t.type), len(t.shape)) for t in tensors)
        check_tensors(found, bundle.manifest, name)
        super().__init__(bundle, backend, variant, loaded.run, loaded.fallback)

    def _run(self, native: Run, images: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
        return native(images, spec)


def _load(bundle: Bundle, backend: str, variant: str, settings: Settings) -> _Loaded:
    entry = bundle.variant(variant)
    graph = Graph(bundle.read(entry.file), f"{bundle.path}:{variant}", entry.target)
    try:
        return _load_on(backend, graph, bundle, variant, settings)
    except DeviceError as error:
        if not settings.allow_fallback or backend == "ort:cpu":
            raise
        session = create(graph, Provider(CPU), settings.threads)
        run = _plain(session, bundle.manifest.input.name)
        return _Loaded(session, run, f"all of it runs on {CPU}: {error}")


def _load_on(
    backend: str, graph: Graph, bundle: Bundle, variant: str, settings: Settings
) -> _Loaded:
    if reason := problem(backend):
        raise DeviceError(f"backend {backend} does not work here: {reason}")
    onnxruntime = import_onnxruntime()
    provider = provider_for(onnxruntime, bundle, backend, variant, settings)
    graphs = provider.options.get("enable_cuda_graph") == "1"
    try:
        session = create(graph, provider, settings.threads, allow_fallback=settings.allow_fallback)
    except DeviceError:
        if graphs:  # which refuse nodes on the CPU, but without their names
            create(graph, Provider(provider.name), settings.threads)
        raise
    fallback = fallback_of(session, provider.name) if settings.allow_fallback else None
    input_name = bundle.manifest.input.name
    if provider.name not in _ON_THE_GPU:
        return _Loaded(session, _plain(session, input_name), fallback)
    runner = DeviceRunner(onnxruntime, session, input_name, graphs=graphs)
    return _Loaded(session, runner.run, fallback)


def _plain(session: Any, input_name: str) -> Run:
    def run(images: NDArray[np.uint8], output: TensorSpec) -> NDArray[Any]:
        found: NDArray[Any] = session.run([output.name], {input_name: images})[0]
        return found

    return run
