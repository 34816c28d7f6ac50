"""The manifest: what a bundle says of itself, as a frozen and strict pydantic model.

Unknown keys, unknown schema versions, NaN and values out of range are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeseg.labels import Labels
from edgeseg.preprocess import Preprocessing

MANIFEST = "manifest.json"
REFERENCE = "reference.npz"

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
    """What was exported; ``gflops`` counts 2 per multiply-add, for one image at the given size.

    ``weights_sha256`` is the hash of the run's ``model.safetensors``.
    """

    name: str
    weights_sha256: Sha256
    parameters: int = Field(ge=1)
    gflops: float = Field(ge=0)
    size_multiple: int = Field(ge=1)
    config: dict[str, Any]


class TensorSpec(_Frozen):
    """A graph input or output; a string dimension is dynamic."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of ``shape`` has this rank and these fixed dimensions."""
        return len(shape) == len(self.shape) and all(
            want == have
            for want, have in zip(self.shape, shape, strict=True)
            if isinstance(want, int)
        )


class Calibration(_Frozen):
    """Which images the quantiser saw; ``list_sha256`` hashes their names and pixels, in order."""

    source: str
    images: int = Field(ge=1)
    method: Literal["minmax"]
    list_sha256: Sha256


class Parity(_Frozen):
    """Distance from PyTorch, measured at export on real images, and the gates for it.

    ``reference_agreement`` is the agreement on those images that the bundle carries.
    ``max_flip_margin`` is PyTorch's largest top-1/top-2 logit margin among the pixels whose
    class changed: a flip at a near tie is noise, one at a wide margin is a fault.
    """

    images: int = Field(ge=1)
    agreement: Share
    reference_agreement: Share
    min_agreement: Share
    max_flip_margin: float = Field(ge=0)
    torch_miou: Share
    miou: Share
    max_miou_drop: Share

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words; empty when all gates pass."""
        found = []
        worst = min(self.agreement, self.reference_agreement)
        if worst < self.min_agreement:
            found.append(f"agreement with PyTorch {worst:.4%} is below {self.min_agreement:.2%}")
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

    @property
    def failures(self) -> list[str]:
        """The gates that variants missed at export, in words; empty for a good bundle."""
        return [
            f"{name}: {failure}"
            for name, variant in self.variants.items()
            for failure in variant.parity.failures
        ]

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        named = {variant.file for variant in self.variants.values()} | {REFERENCE}
        if missing := named - self.files.keys():
            raise ValueError(f"files {sorted(missing)} are used but have no hash")
        return self

    @model_validator(mode="after")
    def _input_fits_preprocessing(self) -> Manifest:
        if not self.input.fits((1, self.preprocessing.height, self.preprocessing.width, 3)):
            raise ValueError(f"input shape {self.input.shape} does not fit the size")
        return self


def write_manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical text of a manifest: the same manifest gives the same bytes."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()
