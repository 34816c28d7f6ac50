"""The recipe: everything that decides how a network is trained, and nothing about where.

A ``Recipe`` is what a preset holds and what ``--recipe FILE.toml`` reads; its ``TrainingConfig``
is written to the run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeseg.documents import first_problem
from edgeseg.errors import UsageError, first_line, show
from edgeseg.preprocess import MAX_SIDE
from edgeseg_train.recipe.losses import LossName
from edgeseg_train.unet import Activation, Norm, UNetConfig, Upsample

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser, before it came into the standard library
    import tomli as tomllib

Schedule = Literal["constant", "onecycle", "poly", "cosine"]
OptimizerName = Literal["adamw", "sgd"]
ClassWeights = Literal["none", "median-frequency", "inverse-log"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Scale = Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)]


class Augmentation(BaseModel):
    """Random changes of the training images; the masks follow, always nearest.

    Attributes:
        scale: lowest and highest factor by which image and mask are resized before a crop of
            the network's size is cut out; what lies outside is ignored.
        flip: mirror half of the images horizontally.
        jitter: strength of random brightness, contrast and saturation; 0 is none.
        blur: share of the images that get a Gaussian blur.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[Scale, Scale] = (0.5, 2.0)
    flip: bool = True
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.2
    blur: Share = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {self.scale[0]}..{self.scale[1]} is not low..high")
        return self


class Distillation(BaseModel):
    """Learn from a trained run too (Hinton et al., arXiv:1503.02531).

    The loss becomes ``(1 - weight) * loss + weight * distillation``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    weights_sha256: str
    weight: Share = 0.5
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0


class TrainingConfig(BaseModel):
    """How to train; written to the run folder.

    Attributes:
        epochs: passes over the training images; None is no limit.
        max_steps: optimiser steps; training ends with whichever limit comes first.
        batch_size: images per device and backward pass.
        accumulate: backward passes per optimiser step.
        lr: highest learning rate.
        momentum: of SGD; ``onecycle`` varies it (or AdamW's beta 1) between 0.85 and 0.95.
        clip: gradients are scaled down to this norm.
        warmup: share of all steps during which the rate rises from near 0 to ``lr``
            (``onecycle`` has its own).
        ema: decay per step of an exponential moving average of the weights, which is then what
            is validated and saved; 0 is none.
        loss: terms that are summed.
        class_weights: of the cross-entropy, from the training masks.
        label_smoothing: of the cross-entropy.
        hardest: the cross-entropy counts only this share of the pixels, those with the highest
            loss (online hard example mining).
        precision: of forward and backward passes while training; ``auto`` is bf16, or else
            fp16, on GPUs, and fp32 on CPUs. Validation is always fp32, as the exported model.
        compiled: use ``torch.compile``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int | None = Field(ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: OptimizerName = "adamw"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    schedule: Schedule
    warmup: Share = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    loss: tuple[LossName, ...] = Field(default=("ce",), min_length=1)
    class_weights: ClassWeights = "none"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hardest: Annotated[float, Field(gt=0, le=1)] = 1.0
    augmentation: Augmentation = Augmentation()
    teacher: Distillation | None = None
    precision: Precision = "auto"
    compiled: bool = False
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _makes_sense(self) -> TrainingConfig:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("neither epochs nor max_steps ends the training")
        if len(set(self.loss)) != len(self.loss):
            raise ValueError(f"loss {'+'.join(self.loss)} names a term twice")
        if self.schedule == "onecycle" and self.warmup:
            raise ValueError("warmup has no effect: the schedule onecycle rises by itself")
        of_ce = (self.class_weights != "none", self.label_smoothing > 0, self.hardest < 1)
        if "ce" not in self.loss and any(of_ce):
            raise ValueError("class weights, label smoothing and hardest need ce in the loss")
        return self


class Recipe(BaseModel):
    """A network with the training that goes with it; every value can be overridden."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[int, ...]
    norm: Norm
    activation: Activation
    upsample: Upsample
    size: tuple[Side, Side]
    training: TrainingConfig

    def unet_config(self, num_classes: int, **overrides: object) -> UNetConfig:
        """Return the architecture for a number of classes, with some values replaced.

        Raises:
            pydantic.ValidationError: a value is out of range.
        """
        values = self.model_dump(include={"features", "norm", "activation", "upsample"})
        return UNetConfig.model_validate({**values, **overrides, "num_classes": num_classes})

    def with_training(self, given: dict[str, Any]) -> TrainingConfig:
        """Return the training with some values replaced, ``augmentation`` value by value.

        Raises:
            pydantic.ValidationError: a value is out of range.
        """
        return TrainingConfig.model_validate(_merged(self.training.model_dump(), given))


def _merged(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    if "max_steps" in given and "epochs" not in given:
        base = {**base, "epochs": None}  # steps alone decide
    augmentation = {**base["augmentation"], **given.get("augmentation", {})}
    return {**base, **given, "augmentation": augmentation}


def read_recipe(path: Path, presets: dict[str, Recipe]) -> Recipe:
    """Read ``FILE.toml``: a ``preset`` to start from, and whatever it changes.

    Raises:
        UsageError: unreadable, or not what ``Recipe`` describes.
    """
    return parse_recipe(read_toml(path, "recipe"), presets, show(path))


def read_toml(path: Path, name: str) -> dict[str, Any]:
    """Read a TOML file; messages call it ``name``.

    Raises:
        UsageError: unreadable.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {name} {show(path)}: {first_line(error)}") from error


def parse_recipe(values: dict[str, Any], presets: dict[str, Recipe], source: str) -> Recipe:
    """Make a recipe of a ``preset``'s name and the values that differ; errors name ``source``.

    Raises:
        UsageError: no such preset, or not what ``Recipe`` describes.
    """
    name = values.get("preset", "edge")
    if not isinstance(name, str) or name not in presets:
        raise UsageError(
            f"recipe {source}: no preset {show(name)}; choose from {', '.join(presets)}"
        )
    base, given = presets[name].model_dump(), values.get("training", {})
    if not isinstance(given, dict) or not isinstance(given.get("augmentation", {}), dict):
        raise UsageError(f"recipe {source}: training and augmentation are tables")
    changed = {key: value for key, value in values.items() if key != "preset"}
    training = _merged(base["training"], given)
    try:
        return Recipe.model_validate({**base, **changed, "training": training})
    except ValidationError as error:
        where, what = first_problem(error)
        raise UsageError(f"recipe {source}: {where}: {what}") from error
