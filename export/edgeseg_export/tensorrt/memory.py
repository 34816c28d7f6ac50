"""Is there memory enough to begin? A build that dies halfway has cost its minutes."""

from __future__ import annotations

from typing import Any

from edgeseg.engines.device import MIB, free_device_bytes, free_host_bytes
from edgeseg.errors import ResourceError

# Not what a build takes, but what it cannot do without: the libraries and a few copies of the
# weights (the file, the parsed network, the engine).
_LIBRARIES = 256 * MIB
_COPIES = 3


def check_memory(model_bytes: int, workspace_mib: int | None, cuda: Any | None) -> None:
    """Check the free memory of the host, and of the GPU if there is one.

    Raises:
        ResourceError: a build could not succeed.
    """
    needed = _LIBRARIES + _COPIES * model_bytes
    _require("host", free_host_bytes(), needed, "close other programs or add swap")
    if cuda is None:
        return
    free = free_device_bytes(cuda)
    _require("GPU", free, _COPIES * model_bytes, "end other programs that use it (nvidia-smi)")
    if workspace_mib is not None:
        _require("GPU", free, workspace_mib * MIB, "give a smaller --workspace")


def _require(what: str, free: int | None, needed: int, fix: str) -> None:
    if free is not None and free < needed:
        raise ResourceError(
            f"{free // MIB} MiB of {what} memory are free; building needs at least "
            f"{needed // MIB} MiB; {fix}"
        )
