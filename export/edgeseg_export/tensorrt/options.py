"""What ``edgeseg build`` was asked for, and whether it makes sense before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeseg.engines.document import Flags
from edgeseg.engines.library import Flavour
from edgeseg.errors import UsageError, show
from edgeseg.preprocess import parse_size

CURRENT = "current"
MAX_BATCH = 1024

Triple = tuple[int, int, int]
Size = tuple[int, int]


@dataclass(frozen=True)
class Options:
    """One request; ``batch`` and ``size_range`` are (min, opt, max), ``variant`` may be open."""

    library: Flavour
    variant: str | None
    batch: Triple
    size_range: tuple[Size, Size, Size] | None
    flags: Flags
    timing_cache: Path | None
    rebuild: bool = False


def parse_batch(text: str) -> Triple:
    """Parse ``N`` or ``MIN,OPT,MAX``.

    Raises:
        UsageError: not one or three numbers between 1 and 1024 in ascending order.
    """
    parts = text.split(",")
    if len(parts) == 1:
        parts *= 3
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 6]
    if len(parts) != 3 or len(numbers) != 3:
        raise UsageError(f"batch {show(text)} is not N or MIN,OPT,MAX, for example 1,4,8")
    low, typical, high = numbers
    if not 1 <= low <= typical <= high <= MAX_BATCH:
        raise UsageError(f"batch {show(text)} does not ascend within 1 .. {MAX_BATCH}")
    return low, typical, high


def parse_size_range(text: str) -> tuple[Size, Size, Size]:
    """Parse ``MIN,OPT,MAX``, each HxW.

    Raises:
        UsageError: not three sizes whose heights and widths ascend.
    """
    sizes = [parse_size(part) for part in text.split(",")]
    if len(sizes) != 3:
        raise UsageError(
            f"size range {show(text)} is not MIN,OPT,MAX, for example 256x256,512x512,1024x1024"
        )
    low, typical, high = sizes
    if not all(low[i] <= typical[i] <= high[i] for i in (0, 1)):
        raise UsageError(f"size range {show(text)} does not ascend")
    return low, typical, high


def parse_compute_capabilities(text: str) -> tuple[str, ...]:
    """Parse ``86,89`` (or ``8.6,8.9``, or ``current``) into sorted names without the dot.

    Raises:
        UsageError: something else, or ``current`` together with others.
    """
    names = {part.strip().lower().replace(".", "") for part in text.split(",")}
    if CURRENT in names and len(names) > 1:
        raise UsageError(f"compute capability {CURRENT} builds for the GPU that is here, alone")
    if not all(name == CURRENT or (name.isascii() and name.isdigit()) for name in names):
        raise UsageError(f"compute capabilities {show(text)} are not like 86,89 or {CURRENT}")
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def check(options: Options) -> None:
    """Check that the options make sense together.

    Raises:
        UsageError: an option of the other library, or one that needs another.
    """
    flags = options.flags
    if flags.gpu_fallback and flags.dla_core is None:
        raise UsageError("--gpu-fallback is for layers that a DLA cannot run; add --dla-core N")
    if flags.dla_core is not None and not _is_fixed(options):
        raise UsageError("a DLA takes one fixed shape; give one --batch number and no --size-range")
    if options.timing_cache and not options.timing_cache.parent.is_dir():
        raise UsageError(f"the folder of timing cache {show(options.timing_cache)} does not exist")
    for unfit, message in _foreign(options):
        if unfit:
            raise UsageError(message)


def _is_fixed(options: Options) -> bool:
    return len(set(options.batch)) == 1 and options.size_range is None


def _foreign(options: Options) -> list[tuple[bool, str]]:
    """Return what belongs to the other library, with what to use instead."""
    flags = options.flags
    if options.library == "tensorrt":
        builds_here = "TensorRT builds for the GPU that is here"
        return [
            (
                bool(flags.compute_capabilities),
                f"--compute-capability is for --backend tensorrt-rtx; {builds_here}",
            )
        ]
    return [
        (
            flags.hardware_compatibility != "none",
            "--hardware-compatibility is TensorRT's; TensorRT-RTX takes --compute-capability 86,89",
        ),
        (
            flags.version_compatible,
            "--version-compatible is TensorRT's; an engine of TensorRT-RTX fits its version only",
        ),
        (
            options.timing_cache is not None,
            "--timing-cache is TensorRT's; TensorRT-RTX does not time kernels when it builds",
        ),
        (flags.dla_core is not None, "--dla-core is TensorRT's, on a Jetson Orin"),
    ]
