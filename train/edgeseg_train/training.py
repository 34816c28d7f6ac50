"""Train: data and configuration in, run folder out. ``edgeseg train`` is a thin layer above."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

import edgeseg
from edgeseg.files import atomic_write, staged_folder
from edgeseg.preprocess import Preprocessing, resize_class_map
from edgeseg_train.data import DataSource
from edgeseg_train.dataset import ResizedSplit, evaluation_loader, training_loader
from edgeseg_train.history import Epoch, History
from edgeseg_train.module import SegmentationModule
from edgeseg_train.pictures import write_curves, write_samples
from edgeseg_train.presets import TrainingConfig
from edgeseg_train.run_folder import CONFIG, DataInfo, RunConfig
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

SAMPLE_ROWS = 6


@dataclass(frozen=True)
class Job:
    """All that a training needs to know."""

    source: DataSource
    model: UNetConfig
    preprocessing: Preprocessing
    training: TrainingConfig
    devices: int | None = None


def train(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: bool = False,
    tell: Callable[[Epoch], None] = lambda epoch: None,
) -> RunConfig:
    """Train and write the run folder; ``out`` appears only when it is whole.

    The saved weights are those of the epoch with the best validation mIoU. An interrupt
    (Ctrl-C) ends the training, keeps what the finished epochs gave, and is raised again.

    Args:
        job: data, model and recipe.
        out: the run folder to write.
        force: replace an existing run folder.
        progress: show Lightning's progress bar on stderr.
        tell: called after each epoch.

    Raises:
        UsageError: ``out`` exists.
        InputError: the data cannot be used.
        GateFailed: the loss became NaN or infinite.
        KeyboardInterrupt: interrupted; says what was kept.
    """
    with _working_folder(out, force=force) as folder:
        history, module, interrupted = _fit(job, folder, progress=progress, tell=tell)
        if interrupted and not history.epochs:
            raise KeyboardInterrupt("nothing was kept: no epoch had finished")
        config = RunConfig(
            model=job.model,
            preprocessing=job.preprocessing,
            labels=job.source.labels,
            training=job.training,
            data=_data_info(job.source),
            result=history.result(),
            versions=versions(),
        )
        atomic_write(folder / CONFIG, (config.model_dump_json(indent=2) + "\n").encode())
        write_curves(history.epochs, folder)
        _write_samples(job, module, folder)
    if interrupted:
        raise KeyboardInterrupt(f"the best weights of the finished epochs are in {out}")
    return config


@contextmanager
def _working_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """Give the staged run folder, or in Lightning's helper processes a folder to throw away."""
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with staged_folder(out, CONFIG, force=force) as staged:
            yield staged


def _fit(
    job: Job, folder: Path, *, progress: bool, tell: Callable[[Epoch], None]
) -> tuple[History, SegmentationModule, bool]:
    lightning.seed_everything(job.training.seed, workers=True, verbose=False)
    size = (job.preprocessing.height, job.preprocessing.width)
    train_loader = training_loader(
        ResizedSplit(job.source.split("train"), size), job.training.batch_size
    )
    val_loader = evaluation_loader(
        ResizedSplit(job.source.split("val"), size), job.training.batch_size
    )
    unet = UNet(job.model)
    initialise(unet)
    network = SegmentationNetwork(unet, job.preprocessing.mean, job.preprocessing.std)
    module = SegmentationModule(network, job.training)
    history = History(folder, tell)
    trainer = _trainer(job, history, progress=progress)
    try:
        trainer.fit(module, train_loader, val_loader)
    except SystemExit:  # Lightning's answer to an interrupt, which it also stops listening to
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return history, module, True
    if not history.epochs or history.epochs[-1].step != trainer.global_step:
        trainer.validate(module, val_loader, verbose=False)  # --max-steps ended within an epoch
    return history, module, False


@torch.inference_mode()
def _write_samples(job: Job, module: SegmentationModule, folder: Path) -> None:
    split = job.source.split("val")
    network = module.network.cpu().eval()
    count = min(SAMPLE_ROWS, len(split.names))
    samples = ResizedSplit(split, (job.preprocessing.height, job.preprocessing.width))
    rows = []
    for i in range(count):
        # Data often repeats with a period (videos, our scene kinds); an extra step avoids it.
        index = (i * len(split.names) // count + i) % len(split.names)
        sample, image = samples[index], split.image(index)
        logits = network(torch.tensor(sample.image)[None])
        class_map = logits[0].argmax(0).to(torch.uint8).numpy()
        rows.append((image, sample.truth, resize_class_map(class_map, *sample.truth.shape)))
    write_samples(rows, job.source.labels, folder)


def initialise(unet: UNet) -> None:
    """Draw convolution weights as He et al. (arXiv:1502.01852, fan-out); biases start at 0."""
    for layer in unet.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _trainer(job: Job, history: History, *, progress: bool) -> lightning.Trainer:
    _silence_lightning()
    bar = RichProgressBar(console_kwargs={"stderr": True})
    cuda = torch.cuda.is_available()
    return lightning.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=job.devices or 1,
        precision="16-mixed" if cuda else "32-true",
        max_epochs=job.training.epochs,
        max_steps=job.training.max_steps or -1,
        gradient_clip_val=job.training.clip,
        callbacks=[history, bar] if progress else [history],
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        num_sanity_val_steps=0,
    )


def _silence_lightning() -> None:
    """Leave out what Lightning tells its own developers' audience; warnings of ours remain."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


def _data_info(source: DataSource) -> DataInfo:
    train_names, val_names = source.split("train").names, source.split("val").names
    listing = "\n".join((*train_names, "", *val_names)).encode()
    return DataInfo(
        spec=source.spec,
        train_images=len(train_names),
        val_images=len(val_names),
        fingerprint=hashlib.sha256(listing).hexdigest(),
    )


def versions() -> dict[str, str]:
    """Return the versions of what a training depends on."""
    packages = ("torch", "torchvision", "lightning", "numpy", "pillow")
    return {
        "edgeseg": edgeseg.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
