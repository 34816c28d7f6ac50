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

# The margin of a pixel is PyTorch's best logit minus its second best: the logarithm of the ratio
# of their probabilities. At 1 the best class is e times as likely as the second.
MARGIN_EDGES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
WIDE_MARGIN = 1.0

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]
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
    method: CalibrationMethod
    list_sha256: Sha256


class Interval(_Frozen):
    """A 95 % bootstrap interval over the evaluation images."""

    low: float
    high: float


class Flips(_Frozen):
    """Where and how decidedly PyTorch saw the pixels whose class changed, in pixels.

    A flip at a near tie of PyTorch's two best classes is noise; one at a wide margin is a fault.

    Attributes:
        pixels: all compared pixels.
        boundary: flips with another class in the 3x3 neighbourhood of PyTorch's class map.
        interior: the other flips; boundary + interior is the number of flips.
        wide: flips at a margin of at least ``WIDE_MARGIN``.
        by_margin: flips per bin of PyTorch's top-1/top-2 logit margin, see ``MARGIN_EDGES``.
    """

    pixels: int = Field(ge=1)
    boundary: int = Field(ge=0)
    interior: int = Field(ge=0)
    wide: int = Field(ge=0)
    by_margin: tuple[int, ...]


class LogitDifference(_Frozen):
    """Absolute difference of the logits from PyTorch's, over the first ``images`` images."""

    images: int = Field(ge=1)
    max: float = Field(ge=0)
    mean: float = Field(ge=0)


class Parity(_Frozen):
    """Distance from PyTorch, measured at export on real images, and the gates for it.

    Attributes:
        images: how many real images were compared.
        measured_with: what ran the exported file.
        agreement: share of pixels with PyTorch's class.
        reference_agreement: the same on those images that the bundle carries.
        min_agreement: the gate for both.
        max_flip_margin: PyTorch's largest top-1/top-2 logit margin among the flipped pixels.
        flips: the flipped pixels, split.
        max_wide_flips: the gate for the share of pixels that flipped at a wide margin.
        torch_miou, miou: PyTorch's and the variant's.
        miou_interval: of miou - torch_miou, over the images; None for a single image.
        class_iou_delta: variant's minus PyTorch's IoU per class; None where neither has one.
        max_miou_drop: the gate for torch_miou - miou.
        logits: difference of the logits.
    """

    images: int = Field(ge=1)
    measured_with: str
    agreement: Share
    reference_agreement: Share
    min_agreement: Share
    max_flip_margin: float = Field(ge=0)
    flips: Flips
    max_wide_flips: Share
    torch_miou: Share
    miou: Share
    miou_interval: Interval | None
    class_iou_delta: tuple[float | None, ...]
    max_miou_drop: Share
    logits: LogitDifference

    @property
    def wide_flips(self) -> float:
        """Share of all pixels that flipped at a wide margin."""
        return self.flips.wide / self.flips.pixels

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words; empty when all gates pass."""
        found = []
        worst = min(self.agreement, self.reference_agreement)
        if worst < self.min_agreement:
            found.append(f"agreement with PyTorch {worst:.4%} is below {self.min_agreement:.2%}")
        if self.wide_flips > self.max_wide_flips:
            found.append(
                f"{self.wide_flips:.4%} of pixels changed class although PyTorch was sure "
                f"(margin {WIDE_MARGIN:g} or more), above {self.max_wide_flips:.2%}"
            )
        drop = self.torch_miou - self.miou
        if drop > self.max_miou_drop:
            found.append(
                f"mIoU fell by {drop:.4f} ({self.torch_miou:.4f} to {self.miou:.4f}), "
                f"more than {self.max_miou_drop}"
            )
        return found


class Variant(_Frozen):
    """One exported graph.

    Attributes:
        file: the ONNX file.
        precision: of the convolutions; the rest of an int8 or fp8 graph for TensorRT is fp16.
        target: which devices it is meant for.
        opset: of the ONNX file.
        calibration: of quantised variants.
        float_layers: layers of a quantised variant that were left in floating point.
        parity: distance from PyTorch at the bundle's own size.
        parity_at: the same at the bundle's other sizes, by ``HxW``.
    """

    file: FileName
    precision: Precision
    target: Literal["any", "cpu", "tensorrt"]
    opset: int = Field(ge=13, le=22)
    calibration: Calibration | None
    float_layers: tuple[str, ...] = ()
    parity: Parity
    parity_at: dict[str, Parity] = {}

    @property
    def failures(self) -> list[str]:
        """The gates missed at any size, in words."""
        at_sizes = [(f"at {size}: ", parity) for size, parity in self.parity_at.items()]
        return [
            f"{where}{failure}"
            for where, parity in [("", self.parity), *at_sizes]
            for failure in parity.failures
        ]


class Manifest(_Frozen):
    """The contract between export and runtime; ``manifest.json`` holds exactly this.

    ``sizes`` are the (height, width) that the model was exported for and measured at, the first
    is ``preprocessing``'s. With ``dynamic_size`` any multiple of ``model.size_multiple`` runs.
    """

    schema_version: Literal[2]
    model: ModelInfo
    labels: Labels
    preprocessing: Preprocessing
    dynamic_size: bool
    sizes: tuple[tuple[int, int], ...] = Field(min_length=1)
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
            for failure in variant.failures
        ]

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        named = {variant.file for variant in self.variants.values()} | {REFERENCE}
        if missing := named - self.files.keys():
            raise ValueError(f"files {sorted(missing)} are used but have no hash")
        return self

    @model_validator(mode="after")
    def _input_fits_preprocessing(self) -> Manifest:
        if self.sizes[0] != (self.preprocessing.height, self.preprocessing.width):
            raise ValueError(f"the first of sizes {self.sizes} is not the preprocessing's size")
        for size in self.sizes:
            if not self.input.fits((1, *size, 3)):
                raise ValueError(f"input shape {self.input.shape} does not fit the size {size}")
        return self


def write_manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical text of a manifest: the same manifest gives the same bytes."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()
