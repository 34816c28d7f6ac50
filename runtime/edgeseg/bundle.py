"""The bundle: the folder that export writes and every runtime reads.

    bundle/
      manifest.json          the contract: see edgeseg.manifest
      model.fp32.onnx        the master; other variants derive from it
      model.int8-cpu.onnx
      reference.npz          real inputs with PyTorch's answers, for `edgeseg verify`

Every file's SHA-256 is in the manifest, and hashes are computed on the very bytes
that are parsed. Missing and extra files are errors.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.documents import read_document
from edgeseg.errors import ArtifactError, UsageError, first_line, show
from edgeseg.files import sha256_bytes
from edgeseg.manifest import MANIFEST, REFERENCE, Manifest, Variant

_NPZ_ERRORS = (  # what numpy and zipfile raise for damaged or foreign files
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Reference:
    """Inputs and PyTorch's answers: uint8 (N, H, W, 3), uint8 (N, H, W), float16 (N, H, W)."""

    images: NDArray[np.uint8]
    class_maps: NDArray[np.uint8]
    margins: NDArray[np.float16]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: where it is and what its manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and check that exactly the listed files are there.

        Raises:
            ArtifactError: no bundle, a corrupt or unknown manifest, missing or extra files.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        _check_listing(folder, manifest)
        return cls(folder, manifest)

    def read(self, name: str) -> bytes:
        """Return the bytes of a listed file, after checking its size and SHA-256.

        Raises:
            ArtifactError: missing, not a plain file, or changed since export.
        """
        entry = self.manifest.files[name]
        path = self.path / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise ArtifactError(f"bundle file {show(path)} is not a plain file")
            data = path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"cannot read bundle file {show(path)}: {error.strerror}"
            ) from error
        if len(data) != entry.bytes or sha256_bytes(data) != entry.sha256:
            raise ArtifactError(
                f"bundle file {show(path)} is corrupt: its SHA-256 is not the one in {MANIFEST}; "
                "copy or export the bundle again"
            )
        return data

    def check_files(self) -> None:
        """Read and hash every listed file; see ``read`` for errors."""
        for name in self.manifest.files:
            self.read(name)

    def variant(self, name: str) -> Variant:
        """Return a variant by name.

        Raises:
            UsageError: the bundle has no such variant.
        """
        try:
            return self.manifest.variants[name]
        except KeyError:
            known = ", ".join(self.manifest.variants)
            raise UsageError(
                f"bundle {show(self.path)} has no variant {show(name)}; it has: {known}"
            ) from None

    def reference(self) -> Reference:
        """Load ``reference.npz``.

        Raises:
            ArtifactError: the file is corrupt or its arrays do not fit together.
        """
        data = self.read(REFERENCE)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                reference = Reference(arrays["images"], arrays["class_maps"], arrays["margins"])
        except _NPZ_ERRORS as error:
            raise ArtifactError(f"{REFERENCE} is not readable: {first_line(error)}") from error
        shape = reference.class_maps.shape
        shapes_fit = reference.images.shape == (*shape, 3) and reference.margins.shape == shape
        arrays_found = (reference.images, reference.class_maps, reference.margins)
        dtypes_fit = [array.dtype for array in arrays_found] == [np.uint8, np.uint8, np.float16]
        if len(shape) != 3 or 0 in shape or not shapes_fit or not dtypes_fit:
            raise ArtifactError(f"{REFERENCE} has arrays that do not fit together")
        if not self.manifest.input.fits(reference.images.shape):
            raise ArtifactError(f"{REFERENCE} has images of another size than the model")
        if not np.isfinite(reference.margins).all():
            raise ArtifactError(f"{REFERENCE} has margins that are not finite")
        return reference


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(_why_no_bundle(folder))
    return read_document(path, Manifest, "manifest")


def _why_no_bundle(folder: Path) -> str:
    if not folder.exists():
        return f"bundle {show(folder)} does not exist"
    if not folder.is_dir():
        return f"bundle {show(folder)} is a file; expected the folder that 'edgeseg export' wrote"
    if (folder / "model.safetensors").exists():
        return (
            f"{show(folder)} is a run folder, not a bundle; "
            f"run: edgeseg export {folder} --out BUNDLE"
        )
    return f"{show(folder)} has no {MANIFEST}; expected the folder that 'edgeseg export' wrote"


def _check_listing(folder: Path, manifest: Manifest) -> None:
    present = {entry.name for entry in folder.iterdir()} - {MANIFEST}
    listed = set(manifest.files)
    if missing := sorted(listed - present):
        raise ArtifactError(f"bundle {show(folder)} lacks {', '.join(missing)}")
    if extra := sorted(present - listed):
        raise ArtifactError(
            f"bundle {show(folder)} has files its manifest does not list: "
            f"{', '.join(show(name) for name in extra[:5])}; remove them or export again"
        )
