"""``edgeseg train --data D --out RUN``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import ValidationError

from edgeseg.cli.output import Output, command_app
from edgeseg.documents import first_problem
from edgeseg.errors import UsageError, show
from edgeseg.files import refuse_existing
from edgeseg.preprocess import Decode, Preprocessing, ResizeRule, parse_size
from edgeseg_train.data import DataSource, open_source
from edgeseg_train.data.check import run_check
from edgeseg_train.recipe.config import (
    ClassWeights,
    OptimizerName,
    Precision,
    Recipe,
    Schedule,
    TrainingConfig,
    read_recipe,
)
from edgeseg_train.recipe.presets import PRESETS, preset
from edgeseg_train.run.job import DataOptions, Job, Resources, read_job_record
from edgeseg_train.run.processes import is_helper_process, started_by_launcher
from edgeseg_train.run.progress import TerminalReporter
from edgeseg_train.run.report import Reporter
from edgeseg_train.run.training import train
from edgeseg_train.run.workspace import finished_name, unfinished_folder
from edgeseg_train.run_folder import CONFIG, RunConfig, read_config, weights_sha256
from edgeseg_train.samples.prepare import default_cache
from edgeseg_train.unet import Activation, Norm, UNet, UNetConfig, Upsample, count_parameters

DATA, NETWORK, RECIPE, AUGMENT, MACHINE = (
    "Data", "Network", "Recipe", "Augmentation", "Machine and run",
)  # fmt: skip


def main(
    ctx: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="synthetic[:TRAIN+VAL] (default), folder:DIR, ade20k:DIR or hf:NAME[:CONFIG].",
            rich_help_panel=DATA,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only read all data once and report; samples.png goes to --out.",
            rich_help_panel=DATA,
        ),
    ] = False,
    ignore_index: Annotated[
        int | None,
        typer.Option(
            min=0, max=255, help="Stored id to ignore, besides 255.", rich_help_panel=DATA
        ),
    ] = None,
    reduce_zero_label: Annotated[
        bool,
        typer.Option(
            "--reduce-zero-label",
            help="Ignore stored id 0; id k is class k - 1.",
            rich_help_panel=DATA,
        ),
    ] = False,
    skip_bad: Annotated[
        int,
        typer.Option(min=0, help="Leave out up to so many bad samples.", rich_help_panel=DATA),
    ] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where decoded samples are kept.", rich_help_panel=DATA),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Decode every time.", rich_help_panel=DATA)
    ] = False,
    preset_name: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help=f"Starting point: {', '.join(PRESETS)} (default edge).",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    recipe_file: Annotated[
        Path | None,
        typer.Option(
            "--recipe", help="Starting point: a TOML file instead.", rich_help_panel=NETWORK
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Channels per level, e.g. 64,128,256,512.", rich_help_panel=NETWORK),
    ] = None,
    norm: Annotated[
        Norm | None, typer.Option(help="Batch norm in each block.", rich_help_panel=NETWORK)
    ] = None,
    activation: Annotated[
        Activation | None,
        typer.Option(help="relu suits INT8 and DLAs.", rich_help_panel=NETWORK),
    ] = None,
    upsample: Annotated[
        Upsample | None,
        typer.Option(
            help="pixelshuffle is an ordinary convolution, which INT8 can quantise.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Network size, HxW.", rich_help_panel=NETWORK)
    ] = None,
    resize: Annotated[
        ResizeRule,
        typer.Option(
            help="How a picture gets the network's size: stretched, whole with bars around it, or "
            "not at all (then none may be larger).",
            rich_help_panel=NETWORK,
        ),
    ] = "stretch",
    decode: Annotated[
        Decode,
        typer.Option(
            help="draft: decode large JPEGs in no more detail than the network needs, here and on "
            "the device.",
            rich_help_panel=NETWORK,
        ),
    ] = "full",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images.", rich_help_panel=RECIPE)
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="End after so many optimiser steps.", rich_help_panel=RECIPE),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Per step and device.", rich_help_panel=RECIPE)
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches per step.", rich_help_panel=RECIPE)
    ] = None,
    optimizer: Annotated[
        OptimizerName | None, typer.Option(help="Optimiser.", rich_help_panel=RECIPE)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate.", rich_help_panel=RECIPE)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay.", rich_help_panel=RECIPE)
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.", rich_help_panel=RECIPE)] = None,
    clip: Annotated[
        float | None, typer.Option(help="Highest norm of the gradients.", rich_help_panel=RECIPE)
    ] = None,
    schedule: Annotated[
        Schedule | None, typer.Option(help="Learning rate over time.", rich_help_panel=RECIPE)
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(help="Share of the steps in which it rises.", rich_help_panel=RECIPE),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of averaged weights, e.g. 0.99; 0: none.", rich_help_panel=RECIPE),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="ce, dice, lovasz or a sum: ce+lovasz.", rich_help_panel=RECIPE),
    ] = None,
    class_weights: Annotated[
        ClassWeights | None,
        typer.Option(help="In ce, from the training masks.", rich_help_panel=RECIPE),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="In ce.", rich_help_panel=RECIPE)
    ] = None,
    hardest: Annotated[
        float | None,
        typer.Option(help="Share of the pixels that count in ce (OHEM).", rich_help_panel=RECIPE),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Trained run to learn from, too.", rich_help_panel=RECIPE),
    ] = None,
    teacher_weight: Annotated[
        float | None, typer.Option(help="Its share of the loss.", rich_help_panel=RECIPE)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Softens its answers.", rich_help_panel=RECIPE)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Of all random draws.", rich_help_panel=RECIPE),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="LOW-HIGH, e.g. 0.5-2.", rich_help_panel=AUGMENT)
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror.", rich_help_panel=AUGMENT)
    ] = None,
    jitter: Annotated[
        float | None, typer.Option(help="Strength of colour changes.", rich_help_panel=AUGMENT)
    ] = None,
    blur: Annotated[
        float | None, typer.Option(help="Share of blurred images.", rich_help_panel=AUGMENT)
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1, help="GPUs per node (without one: CPU processes).", rich_help_panel=MACHINE
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.", rich_help_panel=MACHINE)] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read data.", rich_help_panel=MACHINE),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of training.", rich_help_panel=MACHINE)
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile.", rich_help_panel=MACHINE),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log there, too.", rich_help_panel=MACHINE)
    ] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Log to Weights & Biases.", rich_help_panel=MACHINE)
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder of an unfinished training.", rich_help_panel=MACHINE),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing run.", rich_help_panel=MACHINE)
    ] = False,
) -> int:
    """Train a U-Net and write a run folder: weights, configuration, metrics and pictures.

    With --check exit 3 when the data has problems.
    """
    output: Output = ctx.obj
    loggers = ("tensorboard",) * tensorboard + ("wandb",) * wandb
    if no_cache and cache is not None:
        raise UsageError("--cache and --no-cache exclude each other")
    where = None if no_cache else cache or default_cache()
    resources = Resources(devices, nodes, workers, where, loggers)
    if resume is not None:
        _refuse_all_but(
            RESUME_ALLOWS,
            ctx,
            "a resumed training goes on as it began, so only devices, workers, cache and loggers "
            "may be given with --resume",
        )
        return _resume(resume, resources, output)
    options = DataOptions(
        ignore_index=ignore_index, reduce_zero_label=reduce_zero_label, skip_bad=skip_bad
    )
    if check:
        _refuse_all_but(CHECK_ALLOWS, ctx, "--check only reads the data")
        return _check(_source(data or "synthetic", options), out, output)
    if out is None:
        raise UsageError("--out is missing: the run folder to write")
    refuse_existing(out, CONFIG, force=force)
    base = _base(preset_name, recipe_file)
    training = _training(
        base,
        {
            "epochs": epochs,
            "max_steps": max_steps,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "optimizer": optimizer,
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "clip": clip,
            "schedule": schedule,
            "warmup": warmup,
            "ema": ema,
            "loss": tuple(loss.split("+")) if loss is not None else None,
            "class_weights": class_weights,
            "label_smoothing": label_smoothing,
            "hardest": hardest,
            "teacher": _teacher(teacher, teacher_weight, temperature),
            "precision": precision,
            "compiled": compiled,
            "seed": seed,
            "augmentation": _given(
                {
                    "scale": _scale(scale) if scale is not None else None,
                    "flip": flip,
                    "jitter": jitter,
                    "blur": blur,
                }
            ),
        },
    )
    source = _source(data or "synthetic", options)
    model = _model(
        base,
        source,
        {
            "norm": norm,
            "activation": activation,
            "upsample": upsample,
            "features": _features(features) if features is not None else None,
        },
    )
    height, width = parse_size(size) if size is not None else base.size
    preprocessing = Preprocessing(height=height, width=width, resize=resize, decode=decode)
    job = Job(source, model, preprocessing, training, options)
    return _run(job, out, resources, output, force=force)


def _check(source: DataSource, out: Path | None, output: Output) -> int:
    if out is not None and (out / CONFIG).exists():
        raise UsageError(f"{show(out)} is a run folder; --check writes to a folder of its own")
    return run_check(source, out, output)


def _run(
    job: Job,
    out: Path,
    resources: Resources,
    output: Output,
    *,
    force: bool = False,
    resume: bool = False,
) -> int:
    report = Reporter() if is_helper_process() else TerminalReporter(output)
    for note in job.source.notes:
        report.note(note)
    report.note(_plan(job))
    config = train(job, out, force=force, resume=resume, resources=resources, report=report)
    output.result({"run": str(out), **config.model_dump(mode="json")}, _summary(config, out))
    return 0


def _summary(config: RunConfig, out: Path) -> str:
    result = config.result
    return (
        f"{out}: val mIoU {result.val_miou:.4f} over {result.classes_present} classes, "
        f"pixel accuracy {result.val_pixel_accuracy:.4f} (step {result.step})\n"
        f"next: edgeseg export {out} --out BUNDLE"
    )


RESUME_ALLOWS = {
    "resume", "devices", "nodes", "workers", "cache", "no_cache", "tensorboard", "wandb",
}  # fmt: skip
CHECK_ALLOWS = {"check", "data", "out", "ignore_index", "reduce_zero_label"}


def _refuse_all_but(allowed: set[str], ctx: typer.Context, reason: str) -> None:
    """Let no option be ignored in silence.

    Raises:
        UsageError: another option than the allowed ones was given.
    """
    refused = [
        f"--{name.replace('_', '-')}"
        for name in sorted(set(ctx.params) - allowed)
        if (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if refused:
        raise UsageError(f"{', '.join(refused)}: {reason}")


def _resume(run: Path, resources: Resources, output: Output) -> int:
    out = finished_name(run)
    record = read_job_record(unfinished_folder(out))
    if started_by_launcher() is None and resources.devices is None and resources.nodes == 1:
        resources = replace(resources, devices=record.devices, nodes=record.nodes)
    source = _source(record.spec, record.options)
    job = Job(source, record.model, record.preprocessing, record.training, record.options)
    return _run(job, out, resources, output, force=record.replace, resume=True)


def _source(spec: str, options: DataOptions) -> DataSource:
    return open_source(
        spec, ignore_index=options.ignore_index, reduce_zero_label=options.reduce_zero_label
    )


def _base(preset_name: str | None, recipe_file: Path | None) -> Recipe:
    if recipe_file is None:
        return preset(preset_name or "edge")
    if preset_name is not None:
        raise UsageError("--preset and --recipe exclude each other; a recipe names its preset")
    return read_recipe(recipe_file, PRESETS)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _training(base: Recipe, values: Mapping[str, Any]) -> TrainingConfig:
    try:
        return base.with_training(_given(values))
    except ValidationError as error:
        raise _usage_error(error) from error


def _model(base: Recipe, source: DataSource, values: Mapping[str, Any]) -> UNetConfig:
    try:
        return base.unet_config(source.labels.num_classes, **_given(values))
    except ValidationError as error:
        raise _usage_error(error) from error


def _teacher(
    run: Path | None, weight: float | None, temperature: float | None
) -> dict[str, Any] | None:
    if run is None:
        if weight is not None or temperature is not None:
            raise UsageError("--teacher-weight and --temperature need --teacher")
        return None
    read_config(run)  # says what is wrong with it
    values = {"run": str(run), "weights_sha256": weights_sha256(run)}
    return {**values, **_given({"weight": weight, "temperature": temperature})}


def _features(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--features {show(text)} is not a list like 64,128,256,512")
    return tuple(int(part) for part in parts)


def _scale(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        return float(low), float(high if dash else low)
    except ValueError as error:
        raise UsageError(f"--scale {show(text)} is not LOW-HIGH, for example 0.5-2") from error


OPTION_NAMES = {"compiled": "compile", "weight": "teacher-weight"}


def _usage_error(error: ValidationError) -> UsageError:
    where, what = first_problem(error)
    if where == "the document":  # values that do not go together
        return UsageError(what.removeprefix("Value error, "))
    where = where.removeprefix("augmentation.").removeprefix("teacher.")
    name = where.partition(".")[0].replace("_", "-")
    return UsageError(f"--{OPTION_NAMES.get(name, name)}: {what}")


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


app = command_app(main)
