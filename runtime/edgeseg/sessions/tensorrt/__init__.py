"""The backends ``tensorrt`` and ``tensorrt-rtx``: engines of this machine's cache on its GPU.

``cudart`` and ``cuda`` reach the CUDA runtime, ``lookup`` finds the engine, ``engine`` loads it,
``context`` runs it on its ``buffers``, ``pool`` shares contexts among threads, and ``session``
puts them together.
"""

from __future__ import annotations

from edgeseg.bundle import Bundle
from edgeseg.engines.device import Device, find_device, open_driver
from edgeseg.engines.library import Flavour, Library, load
from edgeseg.errors import DeviceError, EdgeSegError
from edgeseg.sessions.protocol import Settings
from edgeseg.sessions.tensorrt import cudart
from edgeseg.sessions.tensorrt.cuda import Cuda
from edgeseg.sessions.tensorrt.lookup import Wanted, find_engine
from edgeseg.sessions.tensorrt.session import TensorRTSession

_NO_GPU = (
    "no usable NVIDIA GPU here: libcuda.so.1, which comes with the driver, is missing or sees no "
    "GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES (in a container: start it with --gpus all)"
)


def problem(backend: Flavour) -> str | None:
    """Return why TensorRT cannot work here, with the fix, or None when nothing is known."""
    if open_driver() is None:  # first, as it costs nothing: TensorRT takes long to load
        return _NO_GPU
    try:
        load(backend)
    except DeviceError as error:
        return str(error)
    return cudart.problem()


def unready(bundle: Bundle, backend: Flavour, variant: str) -> str | None:
    """Return why a variant cannot run yet, with the command that builds its engine, or None."""
    try:
        find_engine(Wanted.of(bundle, backend, variant, Settings()), *_here(backend))
    except EdgeSegError as error:
        return str(error)
    return None


def open_session(
    bundle: Bundle, backend: Flavour, variant: str, settings: Settings
) -> TensorRTSession:
    """Load the cache's engine for a variant.

    Raises:
        DeviceError: no GPU, no TensorRT or no CUDA runtime here.
        ArtifactError: no engine in the cache runs this here; the message has the build command.
        ResourceError: memory ran out.
    """
    if reason := problem(backend):
        raise DeviceError(f"backend {backend} does not work here: {reason}")
    library, device = _here(backend)
    found = find_engine(Wanted.of(bundle, backend, variant, settings), library, device)
    return TensorRTSession(found, library, Cuda(cudart.open_cudart()))


def _here(backend: Flavour) -> tuple[Library, Device]:
    device = find_device(open_driver())
    if device is None:
        raise DeviceError(_NO_GPU)
    return load(backend), device
