"""The bundle: the folder that export writes and every runtime reads.

    bundle/
      manifest.json          this module's Manifest: a frozen, strict contract
      model.fp32.onnx        the master; other variants derive from it
      model.int8-cpu.onnx
      reference.npz          real inputs with PyTorch's answers, for `edgeseg verify`
      engines/               optional local cache; never shipped, never trusted

Every file's SHA-256 is in the manifest, and hashes are computed on the very bytes
that are parsed. Unknown keys, unknown schema versions, missing and extra files are errors.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeseg.errors import ArtifactError, UsageError, first_line, show
from edgeseg.files import sha256_bytes
from edgeseg.labels import Labels
from edgeseg.preprocess import Preprocessing

MANIFEST = "manifest.json"
REFERENCE = "reference.npz"
ENGINES = "engines"
MAX_MANIFEST_BYTES = 16 * 2**20
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

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=128)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Frozen):
    """One file of the bundle."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class ModelInfo(_Frozen):
    """What was exported; ``gflops`` counts 2 per multiply-add, for one image at the given size."""

    name: str
    parameters: int = Field(ge=1)
    gflops: float = Field(ge=0)
    size_multiple: int = Field(ge=1)
    config: dict[str, Any]


class TensorSpec(_Frozen):
    """A graph input or output; a string dimension is dynamic."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]


class Calibration(_Frozen):
    """Which images the quantiser saw; ``list_sha256`` hashes their names and pixels, in order."""

    source: str
    images: int = Field(ge=1)
    method: Literal["minmax"]
    list_sha256: Sha256


class Parity(_Frozen):
    """Distance from PyTorch, measured at export on real images, and the gates for it.

    ``max_flip_margin`` is PyTorch's largest top-1/top-2 logit margin among the pixels whose
    class changed: a flip at a near tie is noise, one at a wide margin is a fault.
    """

    images: int = Field(ge=1)
    agreement: Share
    min_agreement: Share
    max_flip_margin: float = Field(ge=0)
    torch_miou: Share
    miou: Share
    max_miou_drop: Share

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words; empty when all gates pass."""
        found = []
        if self.agreement < self.min_agreement:
            found.append(
                f"agreement with PyTorch {self.agreement:.4%} is below {self.min_agreement:.2%}"
            )
        drop = self.torch_miou - self.miou
        if drop > self.max_miou_drop:
            found.append(
                f"mIoU fell by {drop:.4f} ({self.torch_miou:.4f} to {self.miou:.4f}), "
                f"more than {self.max_miou_drop}"
            )
        return found


class Variant(_Frozen):
    """One exported graph; ``target`` says which devices it is meant for."""

    file: FileName
    precision: Literal["fp32", "int8"]
    target: Literal["any", "cpu"]
    opset: int = Field(ge=13, le=20)
    calibration: Calibration | None
    parity: Parity


class Manifest(_Frozen):
    """The contract between export and runtime; ``manifest.json`` holds exactly this."""

    schema_version: Literal[1]
    model: ModelInfo
    labels: Labels
    preprocessing: Preprocessing
    dynamic_size: bool
    input: TensorSpec
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    variants: dict[str, Variant] = Field(min_length=1)
    files: dict[FileName, FileEntry]
    toolchain: dict[str, str]

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        named = {variant.file for variant in self.variants.values()} | {REFERENCE}
        if missing := named - self.files.keys():
            raise ValueError(f"files {sorted(missing)} are used but have no hash")
        return self

    @model_validator(mode="after")
    def _input_fits_preprocessing(self) -> Manifest:
        shape, wanted = self.input.shape, (self.preprocessing.height, self.preprocessing.width, 3)
        if len(shape) != 4 or any(
            isinstance(have, int) and have != want
            for have, want in zip(shape[1:], wanted, strict=True)
        ):
            raise ValueError(f"input shape {shape} does not fit the size in preprocessing")
        return self


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
        if not np.isfinite(reference.margins).all():
            raise ArtifactError(f"{REFERENCE} has margins that are not finite")
        return reference


def write_manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical text of a manifest: the same manifest gives the same bytes."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(_why_no_bundle(folder))
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{show(path)} is larger than {MAX_MANIFEST_BYTES} bytes")
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {show(path)}: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the document"
        raise ArtifactError(
            f"{show(path)} is not a manifest this version reads (schema 1): "
            f"{where}: {problem['msg']}"
        ) from error


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
    present = {entry.name for entry in folder.iterdir()} - {MANIFEST, ENGINES}
    listed = set(manifest.files)
    if missing := sorted(listed - present):
        raise ArtifactError(f"bundle {show(folder)} lacks {', '.join(missing)}")
    if extra := sorted(present - listed):
        raise ArtifactError(
            f"bundle {show(folder)} has files its manifest does not list: "
            f"{', '.join(show(name) for name in extra[:5])}; remove them or export again"
        )
