"""``edgeseg train --data D --out RUN``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from pydantic import ValidationError

from edgeseg.cli.output import Output, command_app
from edgeseg.documents import first_problem
from edgeseg.errors import UsageError, show
from edgeseg.files import refuse_existing
from edgeseg.preprocess import Preprocessing, parse_size
from edgeseg_train.data import DataSource, open_source
from edgeseg_train.history import Epoch
from edgeseg_train.presets import PRESETS, Preset, TrainingConfig, preset
from edgeseg_train.run_folder import CONFIG
from edgeseg_train.training import Job, is_helper_process, train
from edgeseg_train.unet import UNet, UNetConfig, count_parameters


def main(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    data: Annotated[
        str, typer.Option(help="synthetic, synthetic:TRAIN+VAL, folder:DIR or ade20k:DIR.")
    ] = "synthetic",
    preset_name: Annotated[
        str, typer.Option("--preset", help=f"Starting point: {', '.join(PRESETS)}.")
    ] = "edge",
    features: Annotated[
        str | None, typer.Option(help="Channels per level, e.g. 64,128,256,512.")
    ] = None,
    norm: Annotated[
        Literal["first", "both"] | None, typer.Option(help="Batch norm in each block.")
    ] = None,
    activation: Annotated[
        Literal["gelu", "relu"] | None, typer.Option(help="relu suits INT8 and DLAs.")
    ] = None,
    upsample: Annotated[
        Literal["transpose", "pixelshuffle"] | None,
        typer.Option(help="pixelshuffle is an ordinary convolution, which INT8 can quantise."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Network size, HxW.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the train images.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="End after this many optimiser steps.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Per step and device.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all random draws.")] = 0,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of GPUs (without one: CPU processes).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run.")] = False,
) -> None:
    """Train a U-Net and write a run folder: weights, configuration, metrics and pictures."""
    output: Output = ctx.obj
    refuse_existing(out, CONFIG, force=force)
    base = preset(preset_name)
    overrides = {"epochs": epochs, "max_steps": max_steps, "batch_size": batch_size, "lr": lr}
    recipe = _recipe(base, {**overrides, "seed": seed})
    height, width = parse_size(size) if size else base.size
    chosen = {
        "norm": norm,
        "activation": activation,
        "upsample": upsample,
        "features": _features(features) if features else None,
    }
    source = open_source(data)
    model = _model(base, source, chosen)
    job = Job(source, model, Preprocessing(height=height, width=width), recipe, devices)
    if not is_helper_process():
        output.note(_plan(job))
    config = train(
        job,
        out,
        force=force,
        progress=sys.stderr.isatty() and not output.quiet,
        tell=lambda epoch: output.note(epoch_line(epoch)),
    )
    result = config.result
    summary = (
        f"{out}: val mIoU {result.val_miou:.4f} over {result.classes_present} classes, "
        f"pixel accuracy {result.val_pixel_accuracy:.4f} (step {result.step})\n"
        f"next: edgeseg export {out} --out BUNDLE"
    )
    output.result({"run": str(out), **config.model_dump(mode="json")}, summary)


def _recipe(base: Preset, overrides: dict[str, int | float | None]) -> TrainingConfig:
    given = {name: value for name, value in overrides.items() if value is not None}
    values = {**base.training.model_dump(), **given}
    if "max_steps" in given and "epochs" not in given:
        values["epochs"] = None  # steps alone decide
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise _usage_error(error) from error


def _model(base: Preset, source: DataSource, chosen: Mapping[str, object]) -> UNetConfig:
    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        return base.unet_config(source.labels.num_classes, **given)
    except ValidationError as error:
        raise _usage_error(error) from error


def _features(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--features {show(text)} is not a list like 64,128,256,512")
    return tuple(int(part) for part in parts)


def _usage_error(error: ValidationError) -> UsageError:
    where, what = first_problem(error)
    return UsageError(f"--{where.partition('.')[0].replace('_', '-')}: {what}")


def _plan(job: Job) -> str:
    counts = {name: len(split.names) for name, split in job.source.splits.items()}
    model, size = job.model, job.preprocessing
    with torch.device("meta"):  # shapes without memory
        parameters = count_parameters(UNet(model))
    return (
        f"data {job.source.spec}: {counts.get('train', 0)} train, {counts.get('val', 0)} val, "
        f"{job.source.labels.num_classes} classes; U-Net {','.join(map(str, model.features))} "
        f"({parameters:,} parameters) at {size.height}x{size.width}"
    )


def epoch_line(epoch: Epoch) -> str:
    """Return one finished epoch as a line for people."""
    return (
        f"epoch {epoch.epoch} (step {epoch.step}, {epoch.seconds:.0f} s): "
        f"loss {epoch.train_loss:.3f} / {epoch.val_loss:.3f} val, "
        f"mIoU {epoch.train_miou:.3f} / {epoch.val_miou:.3f} val, "
        f"pixel accuracy {epoch.val_pixel_accuracy:.3f} val"
    )


app = command_app(main)
