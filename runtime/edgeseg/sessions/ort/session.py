"""ONNX Runtime sessions: CPU, CUDA and TensorRT execution providers, strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.errors import ArtifactError, DeviceError, ResourceError, first_line, show
from edgeseg.manifest import TensorSpec
from edgeseg.sessions.protocol import (
    Settings,
    check_input,
    class_map_from_logits,
    class_map_output,
    logits_output,
)

PROVIDERS = {
    "ort:cpu": "CPUExecutionProvider",
    "ort:cuda": "CUDAExecutionProvider",
    "ort:tensorrt": "TensorrtExecutionProvider",
}

# It quantises the float biases of Q/DQ convolutions to int32. With fp16 scales the quotient
# bias / scale overflows fp16, and fp8 graphs become wrong altogether (seen in 1.32).
_WRONG_FOR_TENSORRT_GRAPHS = ["WeightBiasQuantization"]


def problem(backend: str) -> str | None:
    """Return why a backend cannot work here, with the fix, or None when nothing is known."""
    extra = "cpu" if backend == "ort:cpu" else "gpu"
    try:
        onnxruntime = _import(extra)
    except DeviceError as error:
        return str(error)
    if PROVIDERS[backend] in onnxruntime.get_available_providers():
        return None
    return (
        f"onnxruntime {onnxruntime.__version__} here has no {PROVIDERS[backend]}; uninstall "
        'onnxruntime, then: pip install "edgeseg[gpu]" (on Jetson, the wheel for your JetPack)'
    )


class OrtSession:
    """One ONNX file in ONNX Runtime on one execution provider.

    ``infer`` may be called from several threads; ONNX Runtime's Run is thread-safe.
    """

    def __init__(self, bundle: Bundle, backend: str, variant: str, settings: Settings) -> None:
        """Load the variant.

        Raises:
            DeviceError: the provider is not there, or ONNX Runtime did not use it.
            ArtifactError: the file is corrupt or unsupported.
        """
        if reason := problem(backend):
            raise DeviceError(f"backend {backend} does not work here: {reason}")
        self.backend, self.variant = backend, variant
        self.fallback: str | None = None
        self._bundle = bundle
        self._input, self._outputs = bundle.manifest.input, bundle.manifest.outputs
        entry = bundle.variant(variant)
        name = f"{bundle.path}:{variant}"
        model = bundle.read(entry.file)
        self._session: Any = create_session(
            model, PROVIDERS[backend], name, entry.target, settings.threads
        )
        _check_graph(self._session, self._input, self._outputs, name)

    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            InputError: the array does not fit the model's input.
            DeviceError: the session is closed or the device failed.
            ResourceError: memory ran out.
        """
        spec = class_map_output(self._outputs)
        output = self._run(images_nhwc_u8, spec.name)
        if spec.dtype == "uint8":
            class_maps: NDArray[np.uint8] = output
            return class_maps
        return class_map_from_logits(output)

    def infer_logits(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (N, C, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            UsageError: the bundle was exported without logits.
            InputError, DeviceError, ResourceError: see ``infer``.
        """
        logits: NDArray[np.float32] = self._run(images_nhwc_u8, logits_output(self._bundle).name)
        return logits

    def _run(self, images: NDArray[np.uint8], output: str) -> NDArray[Any]:
        check_input(images, self._input)
        if self._session is None:
            raise DeviceError("the session is closed; open a new one")
        try:
            found: NDArray[Any] = self._session.run([output], {self._input.name: images})[0]
        except Exception as error:  # ONNX Runtime's exceptions share no useful base class
            text = first_line(error)
            if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate" in text.lower():
                raise ResourceError(f"out of memory during inference: {text}") from error
            raise DeviceError(f"inference failed on {self.backend}: {text}") from error
        return found

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self._session = None


def _import(extra: str = "cpu") -> Any:
    install = f'pip install "edgeseg[{extra}]"'
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"onnxruntime cannot be imported ({first_line(error)}); run: {install}"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # an empty folder is importable, too
        raise DeviceError(
            "onnxruntime is damaged, as after uninstalling one of onnxruntime and onnxruntime-gpu; "
            f"uninstall both, then: {install}"
        )
    return onnxruntime


def create_session(
    model: bytes, provider: str, name: str, target: str, threads: int | None = None
) -> Any:
    """Load a graph; ``target`` is the variant's, ``threads`` None takes all that are ours.

    Raises:
        ArtifactError: ONNX Runtime cannot load it on the CPU.
        DeviceError: the provider cannot load it, or is not used.
    """
    onnxruntime = _import()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpu_threads()
    options.log_severity_level = 3  # errors only; warnings go to stderr and look like faults
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle when not running
    try:
        session = onnxruntime.InferenceSession(
            model,
            sess_options=options,
            providers=[provider],
            enable_fallback=0,
            disabled_optimizers=_WRONG_FOR_TENSORRT_GRAPHS if target == "tensorrt" else None,
        )
    except Exception as error:  # ONNX Runtime's exceptions share no useful base class
        if provider == PROVIDERS["ort:cpu"]:
            raise ArtifactError(
                f"onnxruntime {onnxruntime.__version__} cannot load {show(name)}: "
                f"{first_line(error)}"
            ) from error
        raise DeviceError(f"{provider} cannot load {show(name)}: {first_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise DeviceError(
            f"asked for {provider}, but onnxruntime fell back to {session.get_providers()[0]}; "
            "run 'edgeseg doctor'"
        )
    return session


def _check_graph(
    session: Any, wanted: TensorSpec, outputs: tuple[TensorSpec, ...], name: str
) -> None:
    """Check that the graph has the tensors that the manifest describes."""
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    found = {
        (t.name, t.type, len(t.shape)) for t in [*session.get_inputs(), *session.get_outputs()]
    }
    for spec in (wanted, *outputs):
        if (spec.name, types[spec.dtype], len(spec.shape)) not in found:
            raise ArtifactError(
                f"{show(name)} has no tensor {show(spec.name)} of {spec.dtype} {spec.shape}, which "
                "the manifest promises; export the bundle again"
            )
