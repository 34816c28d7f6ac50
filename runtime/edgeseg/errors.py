"""The error family: what a caller may catch and which exit code the command returns.

A message is one line: what was found (named), what was expected, what to do.

    EdgeSegError
    |- UsageError          2  wrong arguments, output exists
    |- InputError          3  bad image, labels, data set, shapes
    |- ArtifactError       4  missing, corrupt or incompatible run folder or bundle
    |- GateFailed          5  an accuracy or parity gate did not hold
    |- DeviceError         6  backend, provider or extra not available
    |- ResourceError       7  out of memory or disk, not writable
    `- MeasurementInvalid  8  a benchmark ran but its numbers must not be used

Exit code 0 is success, 1 an internal bug, 130 an interrupt (Ctrl-C), 141 a closed pipe,
143 a request to end (SIGTERM).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EdgeSegError(Exception):
    """Base of all errors that edgeseg raises on purpose; ``exit_code`` is the command's status."""

    exit_code = 1


class UsageError(EdgeSegError):
    """The arguments do not make sense together, or an output exists already."""

    exit_code = 2


class InputError(EdgeSegError):
    """An image, a mask, a data set or an array is not what is needed."""

    exit_code = 3


class ArtifactError(EdgeSegError):
    """A run folder or bundle is missing, corrupt, untrusted or incompatible."""

    exit_code = 4


class GateFailed(EdgeSegError):
    """A model was produced or measured, and is not accurate enough."""

    exit_code = 5


class DeviceError(EdgeSegError):
    """A backend, execution provider or optional package is not available here."""

    exit_code = 6


class ResourceError(EdgeSegError):
    """Memory or disk ran out, or a place cannot be written."""

    exit_code = 7


class MeasurementInvalid(EdgeSegError):
    """A benchmark ran, but its numbers must not be used."""

    exit_code = 8


class Terminated(KeyboardInterrupt):
    """SIGTERM came: an interrupt that somebody else asked for, so the status is 143, not 130."""


def show(value: object, limit: int = 200) -> str:
    """Return ``value`` quoted for a one-line message: control characters escaped, length capped."""
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(text: str) -> str:
    """Return ``text`` with control characters escaped: names come from files we do not trust."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first non-empty line of a library's message, for use inside ours."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()[:limit]
    return type(error).__name__


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing optional package into one line that names the install command.

    Raises:
        DeviceError: a third-party module that the body imports is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OUR_PACKAGES:
            raise  # a module of ours is missing: a bug or a broken install, not an extra
        if (error.name or "").startswith("onnxruntime"):
            extra = "cpu"  # or gpu: the stages leave the choice open, the two exclude each other
        raise DeviceError(
            f"this needs the package {show(error.name)}, which is not installed; "
            f'run: pip install "edgeseg[{extra}]"'
        ) from error


OUR_PACKAGES = ("edgeseg", "edgeseg_train", "edgeseg_export", "edgeseg_benchmarks")
