"""What doctor looks at: files below a root, the Python that runs, and its search path."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeseg.engines.cache import default_cache
from edgeseg.engines.device import free_host_bytes


@dataclass(frozen=True)
class Machine:
    """A machine, real or a folder of fixtures.

    Attributes:
        root: what ``/`` is.
        architecture: ``x86_64``, ``aarch64`` ...
        python: major and minor version.
        prefix: the environment's folder.
        search: folders that modules are imported from.
        cache: where engines are, or would be, kept.
        free_bytes: memory that a process may still use; None if unknown.
    """

    root: Path
    architecture: str
    python: tuple[int, int]
    prefix: Path
    search: tuple[Path, ...]
    cache: Path
    free_bytes: int | None

    @classmethod
    def here(cls) -> Machine:
        """Return this machine."""
        return cls(
            root=Path("/"),
            architecture=platform.machine(),
            python=sys.version_info[:2],
            prefix=Path(sys.prefix),
            search=tuple(Path(folder) for folder in sys.path if folder),
            cache=default_cache(),
            free_bytes=free_host_bytes(),
        )

    def read(self, name: str) -> str:
        """Return the text of the file ``name``, relative to the root; empty if there is none."""
        try:
            return (self.root / name).read_bytes().decode(errors="replace").strip("\0\n ")
        except OSError:
            return ""
