"""What TensorRT says, kept: its calls return None or False and give the reason to a logger only.

log.clear()
plan = builder.build_serialized_network(network, config)
if plan is None:
    raise failure(log, "no engine was built")
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from edgeseg.errors import ArtifactError, DeviceError, EdgeSegError, ResourceError

KEPT_LINES = 200
_WORST = ("INTERNAL_ERROR", "ERROR")

# Matched loosely, because the texts change between versions.
_NO_MEMORY = re.compile(r"out\s?of\s?memory|insufficient memory|bad_alloc|MEM_ALLOC", re.IGNORECASE)
_NO_DEVICE = re.compile(
    r"cuda (runtime|driver|initiali[sz]ation)|cudaError|CUDA_SUCCESS|no CUDA-capable|libcuda",
    re.IGNORECASE,
)
_NO_KERNEL = re.compile(r"could not find any implementation", re.IGNORECASE)
_LIMIT = 400


class Log:
    """The last lines of warnings and errors, oldest first; bounded, because builders talk a lot."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, str]] = deque(maxlen=KEPT_LINES)

    def add(self, severity: str, text: str) -> None:
        """Keep a line; ``severity`` is TensorRT's name for it."""
        self._lines.append((severity, text))

    def clear(self) -> None:
        """Forget what was said before the next call."""
        self._lines.clear()

    @property
    def errors(self) -> list[str]:
        """The lines of errors, oldest first."""
        return [
            " ".join(text.split()) for severity, text in list(self._lines) if severity in _WORST
        ]

    @property
    def warnings(self) -> list[str]:
        """The lines of warnings, oldest first, each text once."""
        found = [
            " ".join(text.split()) for severity, text in list(self._lines) if severity == "WARNING"
        ]
        return list(dict.fromkeys(found))


def new_logger(module: Any, log: Log) -> Any:
    """Return a logger for TensorRT objects of ``module`` that feeds ``log``."""
    severities = module.ILogger.Severity
    kept = {getattr(severities, name): name for name in (*_WORST, "WARNING")}

    class Logger(module.ILogger):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind11 accepts no super().__init__() here

        def log(self, severity: Any, msg: str) -> None:
            # Called from TensorRT's threads; an exception here would be lost, so none may happen.
            if severity in kept:
                log.add(kept[severity], msg)

    return Logger()


def failure(log: Log, what: str) -> EdgeSegError:
    """Return the error for a call that failed: ``what``, and TensorRT's own words.

    Its kind says what can be done: ResourceError (memory), DeviceError (no usable GPU) or
    ArtifactError (the network).
    """
    errors = log.errors
    said = "; ".join(dict.fromkeys(_shorten(line) for line in errors[:2])) or "no reason was given"
    text = "\n".join(errors)
    if _NO_MEMORY.search(text):
        return ResourceError(
            f"{what}, memory ran out: {said}; free memory (close other programs, add swap), "
            "or lower --workspace, --batch or --optimization-level; the bundle is unharmed"
        )
    if _NO_KERNEL.search(text):
        return ArtifactError(
            f"{what}, no kernel for a layer: {said}; try a larger --workspace, or another variant"
        )
    if _NO_DEVICE.search(text):
        return DeviceError(
            f"{what}, the GPU or its driver is not usable: {said}; see nvidia-smi "
            "(on a Jetson: jetson_release)"
        )
    return ArtifactError(f"{what}: {said}")


def _shorten(line: str) -> str:
    return line if len(line) <= _LIMIT else line[: _LIMIT - 3] + "..."
