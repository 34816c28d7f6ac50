"""What to train, and on what: the input of ``edgeseg_train.run.training.train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from edgeseg.documents import read_document
from edgeseg.files import atomic_write
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import DataSource
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.samples.prepare import default_cache
from edgeseg_train.unet import UNetConfig

JOB = "job.json"


class DataOptions(BaseModel):
    """How stored ids are read, and how many bad samples may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ignore_index: int | None = None
    reduce_zero_label: bool = False
    skip_bad: int = 0


@dataclass(frozen=True)
class Job:
    """All that decides what the weights become."""

    source: DataSource
    model: UNetConfig
    preprocessing: Preprocessing
    training: TrainingConfig
    options: DataOptions = field(default_factory=DataOptions)

    @property
    def size(self) -> tuple[int, int]:
        """The network's (height, width)."""
        return self.preprocessing.size


@dataclass(frozen=True)
class Resources:
    """Where to train: what should not change the result.

    Attributes:
        devices: GPUs, or CPU processes, per node; None is one, or as many as the launcher started.
        nodes: machines.
        workers: processes that read data, per device; None chooses.
        cache: where read samples are kept; None reads them anew each epoch.
        loggers: any of ``tensorboard`` and ``wandb``.
    """

    devices: int | None = None
    nodes: int = 1
    workers: int | None = None
    cache: Path | None = field(default_factory=default_cache)
    loggers: tuple[str, ...] = ()


class JobRecord(BaseModel):
    """``job.json`` of an unfinished training: what ``--resume`` goes on with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    options: DataOptions
    model: UNetConfig
    preprocessing: Preprocessing
    training: TrainingConfig
    devices: int
    nodes: int
    replace: bool

    def write(self, folder: Path) -> None:
        """Write ``job.json``."""
        atomic_write(folder / JOB, (self.model_dump_json(indent=2) + "\n").encode())


def read_job_record(folder: Path) -> JobRecord:
    """Read ``job.json``.

    Raises:
        ArtifactError: missing, or not what this version writes.
    """
    return read_document(folder / JOB, JobRecord, "record of an unfinished training")
