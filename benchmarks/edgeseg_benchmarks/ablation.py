"""What each ingredient of a recipe is worth: train variants of it, compare their val mIoU.

    python -m edgeseg_benchmarks.ablation train/recipes/camvid-ablation.toml \
        --data folder:DATA --out studies/camvid

A study is a TOML file: a ``recipe`` as ``--recipe`` reads it, and ``variant`` tables with a
``name`` and the ``training`` values that they change. Variants that are already trained below
``--out`` are not trained again, unfinished ones go on; then ``ablation.json``, ``ablation.md`` and
``ablation.png`` are written anew. One training each says little about small differences: the same
recipe with other seeds, as variants, shows how little.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from edgeseg.cli.output import Output
from edgeseg.errors import ArtifactError, EdgeSegError, UsageError, show
from edgeseg.files import atomic_write
from edgeseg.preprocess import Preprocessing
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import Recipe, parse_recipe, read_toml
from edgeseg_train.recipe.presets import PRESETS
from edgeseg_train.run.job import Job, Resources
from edgeseg_train.run.progress import TerminalReporter
from edgeseg_train.run.training import train
from edgeseg_train.run.workspace import partial_folder
from edgeseg_train.run_folder import RunConfig, read_config


@dataclass(frozen=True)
class Variant:
    """A recipe with its name, and what it changes in words."""

    name: str
    change: str
    recipe: Recipe


@dataclass(frozen=True)
class Finished:
    """A trained variant: what it gave, and val mIoU after each epoch."""

    variant: Variant
    config: RunConfig
    miou: tuple[float, ...]
    seconds: float


def read_study(path: Path) -> list[Variant]:
    """Read a study.

    Raises:
        UsageError: unreadable, or a variant that is no recipe.
    """
    study = read_toml(path, "study")
    base, variants = study.get("recipe", {}), study.get("variant", [])
    names = [variant.get("name", "") for variant in variants]
    if not variants or not all(names) or len(set(names)) != len(names):
        raise UsageError(f"study {show(path)} needs variants, each with a name of its own")
    return [_variant(base, variant, f"{show(path)}, {variant['name']}") for variant in variants]


def _variant(base: dict[str, Any], variant: dict[str, Any], where: str) -> Variant:
    change = variant.get("training", {})
    training = {**base.get("training", {}), **change}
    augmentation = {
        **base.get("training", {}).get("augmentation", {}),
        **change.get("augmentation", {}),
    }
    values = {**base, "training": {**training, "augmentation": augmentation}}
    return Variant(variant["name"], _words(change), parse_recipe(values, PRESETS, where))


def _words(change: dict[str, Any]) -> str:
    """Return changed values as people write them: ``ema 0.99, scale 0.5-2``."""
    flat = {**change, **change.get("augmentation", {})}
    flat.pop("augmentation", None)
    return ", ".join(f"{name.replace('_', ' ')} {_value(v)}" for name, v in flat.items()) or "-"


def _value(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def finish(
    variant: Variant, data: str, out: Path, resources: Resources, output: Output
) -> Finished:
    """Train a variant, unless that is done; return what it gave.

    Raises:
        ArtifactError: the run below ``out`` has another recipe than the study.
    """
    run, recipe = out / "runs" / variant.name, variant.recipe
    if not run.exists():
        source = open_source(data)
        height, width = recipe.size
        job = Job(
            source,
            recipe.unet_config(source.labels.num_classes),
            Preprocessing(height=height, width=width),
            recipe.training,
        )
        output.note(f"training {variant.name}: {variant.change}")
        resume = (partial_folder(run) / "last.ckpt").is_file()
        train(job, run, resume=resume, resources=resources, report=TerminalReporter(output))
    config = read_config(run)
    if config.training != recipe.training or config.model.features != recipe.features:
        raise ArtifactError(f"{show(run)} was trained with another recipe; remove it")
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    miou = tuple(float(row["val_miou"]) for row in rows)
    return Finished(variant, config, miou, float(rows[-1]["seconds"]))


def document(runs: Sequence[Finished]) -> dict[str, Any]:
    """Return the study's results as JSON values."""
    return {
        "schema": "edgeseg-ablation/1",
        "data": runs[0].config.data.model_dump(mode="json"),
        "model": runs[0].config.model.model_dump(mode="json"),
        "preprocessing": runs[0].config.preprocessing.model_dump(mode="json"),
        "variants": [
            {
                "name": run.variant.name,
                "change": run.variant.change,
                "training": run.config.training.model_dump(mode="json"),
                "origin": run.config.origin.model_dump(mode="json"),
                "seconds": run.seconds,
                "val_miou_per_epoch": run.miou,
                "result": run.config.result.model_dump(mode="json"),
            }
            for run in runs
        ],
    }


def markdown(runs: Sequence[Finished]) -> str:
    """Return the results as a table, compared with the first variant."""
    first = runs[0].config.result.val_miou
    lines = [
        "| variant | changes | val mIoU, best epoch | vs. first | last epoch "
        "| class accuracy | pixel accuracy |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in runs:
        result = run.config.result
        lines.append(
            f"| {run.variant.name} | {run.variant.change} | {result.val_miou:.4f} "
            f"| {result.val_miou - first:+.4f} | {run.miou[-1]:.4f} "
            f"| {result.val_mean_class_accuracy:.4f} | {result.val_pixel_accuracy:.4f} |"
        )
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Finished], path: Path) -> None:
    """Draw val mIoU against epochs."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    for i, run in enumerate(runs):
        style = ("-", "--", ":")[i // 10 % 3]
        axis.plot(range(1, len(run.miou) + 1), run.miou, style, label=run.variant.name)
    axis.set_xlabel("epoch")
    axis.set_ylabel("val mIoU")
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    atomic_write(path, buffer.getvalue())


def main(
    study: Annotated[Path, typer.Argument(help="TOML file.")],
    data: Annotated[str, typer.Option(help="As for edgeseg train.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")],
    only: Annotated[list[str] | None, typer.Option(help="Train only these variants.")] = None,
) -> None:
    """Train all variants of a study and compare them."""
    output = Output()
    try:
        variants = [v for v in read_study(study) if not only or v.name in only]
        runs = [finish(v, data, out, Resources(), output) for v in variants]
        atomic_write(out / "ablation.json", (json.dumps(document(runs), indent=1) + "\n").encode())
        atomic_write(out / "ablation.md", markdown(runs).encode())
        draw(runs, out / "ablation.png")
        output.result({}, markdown(runs))
    except EdgeSegError as error:
        output.error(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    typer.run(main)
