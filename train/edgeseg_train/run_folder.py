"""The run folder: what training writes and export reads.

``model.safetensors`` (weights; never a pickle) and ``config.json`` (a ``RunConfig``) are
the contract; ``metrics.csv``, ``per_class.csv``, ``curves.png`` and ``samples.png`` are for people.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load

from edgeseg.documents import read_document
from edgeseg.errors import ArtifactError, first_line, show
from edgeseg.files import sha256_bytes
from edgeseg.labels import Labels
from edgeseg.preprocess import Preprocessing
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class DataInfo(BaseModel):
    """What was trained on.

    Attributes:
        spec: as on the command line.
        ignore_index: stored id that was ignored in addition to 255.
        reduce_zero_label: whether stored id 0 was ignored and k was class k - 1.
        train_images: number of images used.
        val_images: number of images used.
        train_fingerprint: SHA-256 over the names and contents of the images and masks.
        val_fingerprint: likewise.
        skipped: names that ``--skip-bad`` left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    ignore_index: int | None
    reduce_zero_label: bool
    train_images: int
    val_images: int
    train_fingerprint: str
    val_fingerprint: str
    skipped: tuple[str, ...]


class Result(BaseModel):
    """Validation of the saved weights, at the masks' own sizes; ``step`` is when they were best."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epoch: int
    step: int
    val_loss: float
    val_pixel_accuracy: float
    val_mean_class_accuracy: float
    val_miou: float
    classes_present: int
    weights_sha256: str


class Origin(BaseModel):
    """Where a run was made: versions of what it depends on, the commit, the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[str, str]
    commit: str | None
    device: str
    devices: int
    precision: str


class RunConfig(BaseModel):
    """``config.json``: enough to rebuild the network and to know where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1)
    model: UNetConfig
    preprocessing: Preprocessing
    labels: Labels
    training: TrainingConfig
    data: DataInfo
    result: Result
    origin: Origin


def read_config(run: Path) -> RunConfig:
    """Read a run folder's configuration.

    Raises:
        ArtifactError: no run folder, or a configuration this version does not read.
    """
    path = run / CONFIG
    if not path.is_file():
        found = "does not exist" if not run.exists() else f"has no {CONFIG}"
        raise ArtifactError(f"run folder {show(run)} {found}; expected what 'edgeseg train' wrote")
    return read_document(path, RunConfig, "run configuration")


def weights_sha256(run: Path) -> str:
    """Return the SHA-256 of a run's weights; ``load_network`` says what is wrong with them.

    Raises:
        ArtifactError: there are none, or they are not readable.
    """
    return sha256_bytes(_weights(run))


def _weights(run: Path) -> bytes:
    """Return the weights' file; not memory-mapped, because a file that shrinks ends the process."""
    path = run / WEIGHTS
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"run folder {show(run)} has no {WEIGHTS}") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {show(path)}: {error.strerror}") from error


def load_network(run: Path, config: RunConfig) -> SegmentationNetwork:
    """Return the trained network in evaluation mode, on the CPU.

    Raises:
        ArtifactError: weights missing, corrupt, not finite or for another architecture.
    """
    path = run / WEIGHTS
    data = _weights(run)
    try:
        weights = load(data)
    except SafetensorError as error:
        raise ArtifactError(f"cannot read {show(path)}: {first_line(error)}") from error
    if sha256_bytes(data) != config.result.weights_sha256:
        raise ArtifactError(
            f"{show(path)} is not what {CONFIG} describes (its SHA-256 differs): changed since, or "
            "a training was killed while writing; continue that with --resume"
        )
    for name, tensor in weights.items():
        if not torch.isfinite(tensor.float()).all():
            raise ArtifactError(f"{show(path)}: tensor {name} has values that are not finite")
    unet = UNet(config.model)
    try:
        unet.load_state_dict(weights)
    except RuntimeError as error:
        differences = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{show(path)} does not fit the model in {CONFIG}: {differences}"
        ) from error
    preprocessing = config.preprocessing
    return SegmentationNetwork(unet, preprocessing.mean, preprocessing.std).eval()
