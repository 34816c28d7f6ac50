"""ONNX Runtime sessions: CPU, CUDA and TensorRT execution providers, strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.errors import ArtifactError, DeviceError, InputError, ResourceError, first_line, show
from edgeseg.manifest import TensorSpec

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

    def __init__(self, bundle: Bundle, backend: str, variant: str) -> None:
        """Load the variant.

        Raises:
            DeviceError: the provider is not there, or ONNX Runtime did not use it.
            ArtifactError: the file is corrupt or unsupported.
        """
        if reason := problem(backend):
            raise DeviceError(f"backend {backend} does not work here: {reason}")
        self.backend, self.variant = backend, variant
        self._input, self._outputs = bundle.manifest.input, bundle.manifest.outputs
        entry = bundle.variant(variant)
        name = f"{bundle.path}:{variant}"
        model = bundle.read(entry.file)
        self._session: Any = create_session(model, PROVIDERS[backend], name, entry.target)
        _check_graph(self._session, self._input, self._outputs, name)

    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            InputError: the array does not fit the model's input.
            DeviceError: the session is closed or the device failed.
            ResourceError: memory ran out.
        """
        check_input(images_nhwc_u8, self._input)
        if self._session is None:
            raise DeviceError("the session is closed; open a new one")
        spec = self._outputs[0]
        try:
            (output,) = self._session.run([spec.name], {self._input.name: images_nhwc_u8})
        except Exception as error:  # ONNX Runtime's exceptions share no useful base class
            text = first_line(error)
            if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate" in text.lower():
                raise ResourceError(f"out of memory during inference: {text}") from error
            raise DeviceError(f"inference failed on {self.backend}: {text}") from error
        result: NDArray[np.uint8] = (
            output if spec.dtype == "uint8" else class_map_from_logits(output)
        )
        return result

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self._session = None


def class_map_from_logits(logits_nchw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the most likely class per pixel, uint8 (N, H, W), of float logits (N, C, H, W)."""
    class_maps: NDArray[np.uint8] = logits_nchw.argmax(axis=1).astype(np.uint8)
    return class_maps


def check_input(images: NDArray[Any], spec: TensorSpec) -> None:
    """Check an input array against the manifest.

    Raises:
        InputError: dtype, rank or a fixed dimension differs, or a dimension is 0.
    """
    if images.dtype != np.uint8 or not spec.fits(images.shape) or images.size == 0:
        raise InputError(
            f"model input {show(spec.name)} got shape {images.shape} and dtype {images.dtype}; "
            f"expected uint8 {spec.shape}"
        )


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


def create_session(model: bytes, provider: str, name: str, target: str) -> Any:
    """Load a graph; ``target`` is the variant's.

    Raises:
        ArtifactError: ONNX Runtime cannot load it on the CPU.
        DeviceError: the provider cannot load it, or is not used.
    """
    onnxruntime = _import()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_threads()
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
