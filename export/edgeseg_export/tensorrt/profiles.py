"""From the bundle's sizes to optimisation profiles: the shapes an engine takes and is tuned for.

A bundle of one size gets one profile, a bundle of several sizes one for each (tuned kernels for
every size), and a free size one for the range that is asked for.
"""

from __future__ import annotations

from edgeseg.engines.document import Profile
from edgeseg.errors import UsageError
from edgeseg.manifest import Manifest
from edgeseg_export.tensorrt.options import Size, Triple

CHANNELS = 3


def profiles_for(
    manifest: Manifest, batch: Triple, size_range: tuple[Size, Size, Size] | None
) -> tuple[Profile, ...]:
    """Return the profiles for a bundle.

    Args:
        manifest: of the bundle; its input is uint8 (N, H, W, 3).
        batch: the smallest, the typical and the largest N.
        size_range: the smallest, the typical and the largest (H, W); None: the bundle's sizes.

    Raises:
        UsageError: a range for a bundle without a free size, or sizes that it cannot take.
    """
    if size_range is None:
        return tuple(_profile(batch, (size, size, size)) for size in manifest.sizes)
    if not manifest.dynamic_size:
        sizes = ", ".join(f"{height}x{width}" for height, width in manifest.sizes)
        raise UsageError(
            f"--size-range needs a bundle with a free size, and this one is for {sizes}; "
            "export with --dynamic size"
        )
    multiple = manifest.model.size_multiple
    for height, width in size_range:
        if height % multiple or width % multiple:
            raise UsageError(
                f"size {height}x{width} is no multiple of {multiple}; "
                f"the next is {_up(height, multiple)}x{_up(width, multiple)}"
            )
    return (_profile(batch, size_range),)


def _profile(batch: Triple, sizes: tuple[Size, Size, Size]) -> Profile:
    low, typical, high = (
        (n, height, width, CHANNELS) for n, (height, width) in zip(batch, sizes, strict=True)
    )
    return Profile(min=low, opt=typical, max=high)


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
