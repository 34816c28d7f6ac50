"""Train: data and configuration in, run folder out. ``edgeseg train`` is a thin layer above."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

import edgeseg
from edgeseg.cpu import cpu_threads
from edgeseg.errors import DeviceError, EdgeSegError, ResourceError, first_line, show
from edgeseg.files import refuse_existing, replace_folder, staged_folder
from edgeseg.preprocess import Preprocessing, resize_class_map, resize_image
from edgeseg_train.data import DataSource, drawn
from edgeseg_train.dataset import Loaders, ResizedSplit
from edgeseg_train.history import Epoch, History
from edgeseg_train.module import SegmentationModule
from edgeseg_train.pictures import write_curves, write_samples
from edgeseg_train.presets import TrainingConfig
from edgeseg_train.run_folder import CONFIG, DataInfo, Result, RunConfig, load_network
from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig

SAMPLE_ROWS = 6


@dataclass(frozen=True)
class Job:
    """All that a training needs to know; ``devices`` None is one."""

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
    (Ctrl-C) ends the training, keeps what the finished epochs gave, and is raised again; after
    any other failure they are at ``NAME.failed``.

    Args:
        job: data, model and recipe.
        out: the run folder to write.
        force: replace an existing run folder.
        progress: show Lightning's progress bar on stderr.
        tell: called after each epoch.

    Raises:
        UsageError: ``out`` exists.
        InputError: the data cannot be used.
        DeviceError: more devices than there are.
        ResourceError: the device's memory ran out.
        GateFailed: the loss became NaN or infinite.
        KeyboardInterrupt: interrupted; says what was kept.
    """
    failed = out.with_name(f"{out.name}.failed")
    with _working_folder(out, force=force) as folder:
        refuse_existing(failed, CONFIG, force=True)
        history = History(folder, lambda result: _config(job, result), tell)
        interrupted = False
        try:
            _fit(job, history, progress=progress)
            _leave_if_helper()
            _draw(job, history, folder)
        except KeyboardInterrupt:
            if not history.epochs or is_helper_process():
                raise KeyboardInterrupt("nothing was kept: no epoch had finished") from None
            interrupted = True
            _draw(job, history, folder)
        except Exception as error:
            explained = _explained(error)
            if not history.epochs or is_helper_process():  # a helper's folder has no weights
                raise explained from error
            replace_folder(folder, failed)
            raise type(explained)(
                f"{explained}; the best weights of the finished epochs are in {show(failed)}"
            ) from error
    if interrupted:
        raise KeyboardInterrupt(f"the best weights of the finished epochs are in {out}")
    return history.config()


def is_helper_process() -> bool:
    """Whether Lightning started this process for another device than the first."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _leave_if_helper() -> None:
    if is_helper_process():
        sys.exit(0)  # the first process writes the run folder and reports


@contextmanager
def _working_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """Give the staged run folder, or in helper processes a folder to throw away."""
    if is_helper_process():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with staged_folder(out, CONFIG, force=force) as staged:
            yield staged


def _explained(error: Exception) -> EdgeSegError:
    """Return an error of ours for whatever ended the training."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(f"out of memory: {first_line(error)}; use a smaller --batch-size")
    if isinstance(error, OSError | MemoryError):
        return ResourceError(first_line(error))
    if not isinstance(error, EdgeSegError):
        return EdgeSegError(f"{type(error).__name__}: {first_line(error)}")
    lines = str(error).strip().splitlines()
    if len(lines) > 1:  # a loader's worker wraps our message in its traceback
        return type(error)(lines[-1].partition(": ")[2])
    return error


def _fit(job: Job, history: History, *, progress: bool) -> None:
    lightning.seed_everything(job.training.seed, workers=True, verbose=False)
    size = (job.preprocessing.height, job.preprocessing.width)
    loaders = Loaders(
        ResizedSplit(job.source.split("train"), size, keep_truth=False),
        ResizedSplit(job.source.split("val"), size, keep_truth=True),
        job.training.batch_size,
    )
    unet = UNet(job.model)
    initialise(unet)
    network = SegmentationNetwork(unet, job.preprocessing.mean, job.preprocessing.std)
    module = SegmentationModule(network, job.training)
    trainer = _trainer(job, history, progress=progress)
    try:
        trainer.fit(module, datamodule=loaders)
        if not history.epochs or history.epochs[-1].step != trainer.global_step:
            # --max-steps ended within an epoch
            trainer.validate(module, datamodule=loaders, verbose=False)
    except SystemExit:  # Lightning's answer to an interrupt, which it also stops listening to
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def _draw(job: Job, history: History, folder: Path) -> None:
    """Draw the learning curves, and samples with the weights that were saved."""
    write_curves(history.epochs, folder)
    split = job.source.split("val")
    network = load_network(folder, history.config())
    size = (job.preprocessing.height, job.preprocessing.width)
    rows = []
    for index in drawn(len(split.names), SAMPLE_ROWS):
        image, truth = split.image(index), split.mask(index)
        with torch.inference_mode():
            logits = network(torch.tensor(resize_image(image, *size))[None])
        class_map = logits[0].argmax(0).to(torch.uint8).numpy()
        rows.append((image, truth, resize_class_map(class_map, *truth.shape)))
    write_samples(rows, job.source.labels, folder)


def initialise(unet: UNet) -> None:
    """Draw convolution weights as He et al. (arXiv:1502.01852, fan-out); biases start at 0."""
    for layer in unet.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _trainer(job: Job, history: History, *, progress: bool) -> lightning.Trainer:
    _silence_lightning()
    bar = RichProgressBar(console_kwargs={"stderr": True})
    cuda, devices = torch.cuda.is_available(), job.devices or 1
    if cuda and devices > torch.cuda.device_count():
        raise DeviceError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs")
    if not cuda and devices > cpu_threads():
        raise DeviceError(f"--devices {devices}: no GPU here, and {cpu_threads()} CPU cores")
    return lightning.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=devices,
        precision=_precision(),
        sync_batchnorm=cuda and devices > 1,
        use_distributed_sampler=False,  # Loaders shares out the images itself
        max_epochs=job.training.epochs or -1,
        max_steps=job.training.max_steps or -1,
        gradient_clip_val=job.training.clip,
        callbacks=[history, bar] if progress else [history],
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        num_sanity_val_steps=0,
    )


def _precision() -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    if not torch.cuda.is_available():
        return "32-true"
    # bfloat16 has FP32's range: no block without a norm at its end can overflow.
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _config(job: Job, result: Result) -> RunConfig:
    return RunConfig(
        model=job.model,
        preprocessing=job.preprocessing,
        labels=job.source.labels,
        training=job.training,
        data=_data_info(job.source),
        result=result,
        versions=versions(),
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
