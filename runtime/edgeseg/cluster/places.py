"""A folder, local or behind an address: listed, read and written through one interface.

    place = Place.of("s3://photos/2026")
    for name in place.pictures():  # "monday/a.jpg"
        place.read(name)

Arrow knows local folders, S3, Google Cloud Storage and HDFS; any other scheme is fsspec's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeseg.errors import InputError, ResourceError, first_line, needs_extra, show
from edgeseg.files import atomic_write
from edgeseg.images import IMAGE_SUFFIXES

_EXTRA = "ray"


@dataclass(frozen=True)
class Place:
    """A folder; it can be sent to another process.

    Attributes:
        address: as it was given.
        filesystem: Arrow's.
        root: of the folder, in the file system.
    """

    address: str
    filesystem: Any
    root: str

    @classmethod
    def of(cls, address: str) -> Place:
        """Return the folder behind an address.

        Raises:
            InputError: no file system of this kind can be reached.
            DeviceError: the package for it is not installed.
        """
        with needs_extra(_EXTRA):
            from pyarrow import fs
        if "://" not in address:
            return cls(address, fs.LocalFileSystem(), str(Path(address).absolute()))
        try:
            filesystem, root = fs.FileSystem.from_uri(address)
        except ValueError:
            filesystem, root = _of_fsspec(address)
        except OSError as error:
            raise InputError(f"cannot reach {show(address)}: {first_line(error)}") from error
        return cls(address, filesystem, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return bool(self.filesystem.type_name == "local")

    def pictures(self) -> list[str]:
        """Return the names of all pictures below, relative to the folder, sorted.

        Raises:
            InputError: it cannot be listed, or holds no picture.
        """
        names = [name for name in self.files() if name.lower().endswith(IMAGE_SUFFIXES)]
        if not names:
            raise InputError(f"{show(self.address)} has no images")
        return names

    def files(self) -> list[str]:
        """Return the names of all files below, relative to the folder, sorted.

        A folder that is not there has none.

        Raises:
            InputError: it cannot be listed.
        """
        from pyarrow import fs

        try:
            selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise InputError(f"cannot list {show(self.address)}: {first_line(error)}") from error
        plain = (info.path for info in found if info.type == fs.FileType.File)
        return sorted(str(PurePosixPath(path).relative_to(self.root)) for path in plain)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            InputError: it cannot be read.
        """
        try:
            with self.filesystem.open_input_stream(f"{self.root}/{name}") as file:
                data: bytes = file.read()
        except OSError as error:
            raise InputError(f"it cannot be read: {first_line(error)}") from error
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file, with the folders above it; local ones appear whole or not at all.

        Raises:
            ResourceError: it cannot be written.
        """
        path = f"{self.root}/{name}"
        try:
            self.filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
            if self.is_local:
                atomic_write(Path(path), data)
                return
            with self.filesystem.open_output_stream(path) as file:  # published when it is closed
                file.write(data)
        except OSError as error:
            raise ResourceError(
                f"cannot write {show(self.named(name))}: {first_line(error)}"
            ) from error

    def named(self, name: str) -> str:
        """Return a file's name as a person would give it."""
        return f"{self.address.rstrip('/')}/{name}"


def _of_fsspec(address: str) -> tuple[Any, str]:
    from pyarrow import fs

    with needs_extra(_EXTRA):
        import fsspec
    try:
        filesystem, root = fsspec.core.url_to_fs(address)
    except ImportError as error:  # the scheme needs one more package, and it says which
        raise InputError(f"cannot reach {show(address)}: {first_line(error)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot reach {show(address)}: {first_line(error)}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), root
