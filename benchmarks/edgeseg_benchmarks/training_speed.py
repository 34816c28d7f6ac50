"""How fast training data comes, and whether the network ever waits for it.

    python -m edgeseg_benchmarks.training_speed --data folder:DATA --out training-speed.json

Three questions, each answered by a ratio within one interleaved run (A B B A ...), because
machines change their speed while one measures:

* training with decoded samples from the cache against decoding them each time;
* reading and augmenting alone against what the network consumes;
* and how long a command takes to its first optimiser step, with an empty cache and a filled one.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from edgeseg.cpu import cpu_threads
from edgeseg.files import atomic_write
from edgeseg.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from edgeseg_benchmarks.environment import software_facts, system_facts
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import Recipe
from edgeseg_train.recipe.losses import SegmentationLoss
from edgeseg_train.recipe.optimisation import make_optimizer
from edgeseg_train.recipe.presets import preset
from edgeseg_train.samples.batches import Batch, EpochBatches, training_loader
from edgeseg_train.samples.prepare import PreparedSplit, prepare
from edgeseg_train.unet import SegmentationNetwork, UNet

Seconds = dict[str, list[float]]


class Steps:
    """Optimiser steps of a preset's network, as the training loop makes them."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        unet = UNet(recipe.unet_config(num_classes))
        self.network = SegmentationNetwork(unet, IMAGENET_MEAN, IMAGENET_STD)
        self.network.to(memory_format=torch.channels_last).train()
        self.optimizer = make_optimizer(self.network.parameters(), recipe.training)
        self.criterion = SegmentationLoss(recipe.training.loss)

    def __call__(self, batch: Batch) -> None:
        """Make one step."""
        loss = self.criterion(self.network(batch.images), batch.masks.long())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def endless(
    samples: PreparedSplit, recipe: Recipe, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Yield augmented training batches for ever."""
    batches = EpochBatches(len(samples), batch_size, seed=0)
    loader = training_loader(samples, batches, recipe.training.augmentation, workers)
    for epoch in itertools.count():
        batches.epoch = epoch
        yield from loader


def interleaved(sides: dict[str, Callable[[], None]], blocks: int) -> Seconds:
    """Return seconds per call of each side, called in the order A B B A A B B A ..."""
    found: Seconds = {name: [] for name in sides}
    for call in sides.values():
        call()  # warm-up
    for block in range(blocks):
        for name in list(sides)[:: 1 if block % 2 == 0 else -1]:
            start = time.perf_counter()
            sides[name]()
            found[name].append(time.perf_counter() - start)
    return found


def measure(data: str, recipe: Recipe, batch_size: int, blocks: int, cache: Path) -> dict[str, Any]:
    """Measure loader and training, all with the samples of ``data``."""
    source = open_source(data)
    split, classes = source.split("train"), source.labels.num_classes
    options: dict[str, Any] = {"keep_truth": False, "num_classes": classes}
    fit = Preprocessing(height=recipe.size[0], width=recipe.size[1])
    cached = prepare(split, fit, cache=cache, **options)
    decoded = prepare(split, fit, cache=None, **options)
    steps = Steps(recipe, classes)
    with_cache = endless(cached, recipe, batch_size, 0)
    without = endless(decoded, recipe, batch_size, 0)
    parallel = endless(cached, recipe, batch_size, cpu_threads())
    fixed = next(with_cache)
    seconds = interleaved(
        {
            "training, cached": lambda: steps(next(with_cache)),
            "training, decoded each time": lambda: steps(next(without)),
            "network alone": lambda: steps(fixed),
            "loader alone, cached": lambda: _drop(with_cache),
            "loader alone, decoded each time": lambda: _drop(without),
            f"loader alone, cached, {cpu_threads()} workers": lambda: _drop(parallel, 8),
        },
        blocks,
    )
    for name in seconds:
        if "workers" in name:  # one batch alone would measure what the workers had ready
            seconds[name] = [value / 8 for value in seconds[name]]
    return {"images_per_batch": batch_size, "seconds_per_batch": seconds}


def _drop(batches: Iterator[Batch], count: int = 1) -> None:
    for _ in range(count):
        next(batches)


UNTIL_FIRST_STEP = """
import os, sys
from edgeseg_train.run.progress import TerminalReporter
TerminalReporter.step = lambda self, step: os._exit(0)
from edgeseg.cli.main import main
main(sys.argv[1:])
"""


def first_step(data: str, name: str, batch_size: int, cache: Path) -> float:
    """Return the seconds from ``edgeseg train`` to the end of its first optimiser step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", UNTIL_FIRST_STEP, "train", "--data", data, "--quiet"]
        command += ["--preset", name, "--batch-size", str(batch_size), "--cache", str(cache)]
        start = time.perf_counter()
        subprocess.run([*command, "--out", str(Path(folder, "run"))], check=True)
        return time.perf_counter() - start


def main(
    data: Annotated[str, typer.Option(help="As for edgeseg train.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    preset_name: Annotated[str, typer.Option("--preset", help="Network and size.")] = "edge",
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 4,
    blocks: Annotated[int, typer.Option(min=2, help="Calls of each side.")] = 12,
) -> None:
    """Measure, print the ratios, write all samples."""
    recipe = preset(preset_name)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(data, recipe, batch_size, blocks, Path(folder, "a"))
        commands = [first_step(data, preset_name, batch_size, Path(folder, "b")) for _ in range(3)]
    seconds = {name: median(values) for name, values in found["seconds_per_batch"].items()}
    document = {
        "schema": "edgeseg-training-speed/1",
        "data": data,
        "preset": preset_name,
        **found,
        "images_per_second": {name: batch_size / value for name, value in seconds.items()},
        "ratios": ratios(seconds),
        "seconds_to_first_step": {"empty cache": commands[0], "filled cache": commands[1:]},
        "system": system_facts(),
        "software": software_facts(),
    }
    atomic_write(out, (json.dumps(document, indent=1) + "\n").encode())
    for name, value in {**document["images_per_second"], **document["ratios"]}.items():
        typer.echo(f"{name:<60} {value:8.2f}")
    typer.echo(
        f"first step after {commands[0]:.1f} s, with a filled cache {min(commands[1:]):.1f} s"
    )


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Return what is asked, from the median seconds per batch of each side."""
    workers = next(name for name in seconds if "workers" in name)
    return {
        "training: cached over decoded each time": seconds["training, decoded each time"]
        / seconds["training, cached"],
        "loader: cached over decoded each time": seconds["loader alone, decoded each time"]
        / seconds["loader alone, cached"],
        "loader alone over network alone": seconds["network alone"]
        / seconds["loader alone, cached"],
        "loader with workers over network alone": seconds["network alone"] / seconds[workers],
    }


if __name__ == "__main__":
    typer.run(main)
