"""Presets: three networks with the training that goes with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeseg.errors import UsageError, show
from edgeseg_train.unet import Activation, Norm, UNetConfig, Upsample

Schedule = Literal["constant", "onecycle"]


class TrainingConfig(BaseModel):
    """How to train; written to the run folder.

    Training ends after ``epochs`` or ``max_steps`` (optimiser steps), whichever comes first;
    None is no limit. ``batch_size`` is per device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int | None = Field(ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=1)
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    schedule: Schedule
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _ends(self) -> TrainingConfig:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("neither epochs nor max_steps ends the training")
        return self


class Preset(BaseModel):
    """A named starting point; every value can be overridden on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[int, ...]
    norm: Norm
    activation: Activation
    upsample: Upsample
    size: tuple[int, int]
    training: TrainingConfig

    def unet_config(self, num_classes: int, **overrides: object) -> UNetConfig:
        """Return the architecture for a number of classes, with some values replaced.

        Raises:
            pydantic.ValidationError: a value is out of range.
        """
        values = self.model_dump(include={"features", "norm", "activation", "upsample"})
        return UNetConfig.model_validate({**values, **overrides, "num_classes": num_classes})


PRESETS = {
    # The reference network and its optimiser.
    "seed": Preset(
        features=(64, 128, 256, 512),
        norm="first",
        activation="gelu",
        upsample="transpose",
        size=(512, 512),
        training=TrainingConfig(epochs=50, batch_size=16, lr=1e-4, schedule="constant"),
    ),
    # Half the channels, so a quarter of the multiplications; all of it has INT8 kernels.
    "edge": Preset(
        features=(32, 64, 128, 256),
        norm="both",
        activation="relu",
        upsample="pixelshuffle",
        size=(256, 256),
        training=TrainingConfig(epochs=50, batch_size=16, lr=2e-3, schedule="onecycle"),
    ),
    # Trains in about a minute on two CPU cores: for the demo and for trying things out.
    "tiny": Preset(
        features=(16, 32, 64),
        norm="both",
        activation="relu",
        upsample="pixelshuffle",
        size=(96, 96),
        training=TrainingConfig(epochs=6, batch_size=4, lr=6e-3, schedule="onecycle"),
    ),
}


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {show(name)}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
