"""Train: a job in, a run folder out. ``edgeseg train`` is a thin layer above."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeseg.errors import (
    ArtifactError,
    EdgeSegError,
    InputError,
    ResourceError,
    Terminated,
    first_line,
    show,
)
from edgeseg.metrics import ConfusionMatrix
from edgeseg.preprocess import resize_class_map, resize_image
from edgeseg_train.data import SplitName, drawn
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.recipe.losses import (
    SegmentationLoss,
    inverse_log_weights,
    median_frequency_weights,
)
from edgeseg_train.run.checkpoint import load_checkpoint, save_checkpoint
from edgeseg_train.run.devices import launch, make_fabric
from edgeseg_train.run.history import Epoch, History
from edgeseg_train.run.job import Job, JobRecord, Resources, is_helper_process
from edgeseg_train.run.loggers import finish, make_loggers, scalars
from edgeseg_train.run.loop import Data, Hooks, Interrupted, TrainingLoop
from edgeseg_train.run.origin import origin
from edgeseg_train.run.pictures import write_curves, write_samples
from edgeseg_train.run.report import Reporter
from edgeseg_train.run.signals import StopRequest
from edgeseg_train.run.workspace import Workspace, open_again, open_new, partial_folder
from edgeseg_train.run_folder import (
    DataInfo,
    Result,
    RunConfig,
    load_network,
    read_config,
    weights_sha256,
)
from edgeseg_train.samples.batches import (
    EpochBatches,
    EvaluationSplit,
    default_workers,
    evaluation_loader,
    training_loader,
)
from edgeseg_train.samples.prepare import ClassCounts, PreparedSplit, prepare
from edgeseg_train.unet import SegmentationNetwork, UNet

SAMPLE_ROWS = 6
WAITING_LIMIT = 0.2  # share of the time; above it the loader is said to be too slow


def train(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    resume: bool = False,
    resources: Resources | None = None,
    report: Reporter | None = None,
) -> RunConfig:
    """Train and write the run folder; ``out`` appears only when it is whole.

    The saved weights are those of the epoch with the best validation mIoU. Until the end the
    work is in ``NAME.partial``; what ends the training early leaves a checkpoint there.

    Args:
        job: data, model and recipe.
        out: the run folder to write.
        force: replace an existing run folder, or the leftovers of an unfinished training.
        resume: go on with the unfinished training of ``out``, which had this very job.
        resources: devices and data reading.
        report: hears of progress.

    Raises:
        UsageError: ``out`` exists, or another training works there.
        InputError: the data cannot be used.
        ArtifactError: the teacher, or the checkpoint to resume from, cannot be used.
        DeviceError: more devices than there are.
        ResourceError: memory or disk ran out, or a worker was killed.
        GateFailed: the loss was NaN or infinite three times in a row.
        KeyboardInterrupt: interrupted; says what was kept.
    """
    resources, report = resources or Resources(), report or Reporter()
    if is_helper_process():
        _help(job, out, resume=resume, resources=resources)
    workspace = open_again(out) if resume else open_new(out, force=force)
    run = _Run(job, workspace.folder, resources, report)
    try:
        run.fit(workspace.folder if resume else None, replace=force)
        run.draw()
    except BaseException as error:
        raise _ended_early(error, workspace, run) from error
    workspace.finish(force=force)
    return read_config(out)


def _help(job: Job, out: Path, *, resume: bool, resources: Resources) -> None:
    """Train on another device than the first, in a folder that nobody reads, and exit."""
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(job, Path(folder), resources, Reporter())
        with contextlib.suppress(Interrupted):
            run.fit(partial_folder(out) if resume else None, replace=False)
    sys.exit(0)  # the first process writes the run folder and reports


def _ended_early(error: BaseException, workspace: Workspace, run: _Run) -> BaseException:
    """Return what to raise; the working folder stays if there is something to resume from."""
    kept = workspace.has_checkpoint
    workspace.leave(keep=kept)
    hint = f"continue with --resume {workspace.out}"
    if isinstance(error, Interrupted | KeyboardInterrupt):
        what = f"the state is saved; {hint}" if kept else "nothing was kept: no step had finished"
        terminated = run.stop.number == signal.SIGTERM or isinstance(error, Terminated)
        return Terminated(what) if terminated else KeyboardInterrupt(what)
    if not isinstance(error, Exception):
        return error
    explained = _explained(error)
    if not kept:
        return explained
    return type(explained)(
        f"{explained}; what was reached before is in {show(workspace.folder)}: {hint}"
    )


def _explained(error: Exception) -> EdgeSegError:
    """Return an error of ours for whatever ended the training."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(f"out of memory: {first_line(error)}; use a smaller --batch-size")
    if isinstance(error, OSError | MemoryError):
        return ResourceError(first_line(error))
    if "DataLoader worker" in str(error) and ("killed" in str(error) or "exited" in str(error)):
        return ResourceError(
            f"{first_line(error)}: most likely out of memory; use fewer --workers or a smaller "
            "--batch-size"
        )
    if not isinstance(error, EdgeSegError):
        return EdgeSegError(f"{type(error).__name__}: {first_line(error)}")
    lines = str(error).strip().splitlines()
    if len(lines) > 1:  # a loader's worker wraps our message in its traceback
        return type(error)(lines[-1].partition(": ")[2])
    return error


class _Run:
    """One call of ``train`` in one process."""

    def __init__(self, job: Job, folder: Path, resources: Resources, report: Reporter) -> None:
        self.job, self.folder, self.resources, self.report = job, folder, resources, report
        self.stop = StopRequest()

    def fit(self, resume_from: Path | None, *, replace: bool) -> None:
        """Read the data, set everything up, and train to the end."""
        job = self.job
        _check_batch_norm(job)
        teacher = _teacher(job)
        train, val = self._prepared("train"), self._prepared("val")
        names = self.resources.loggers if not is_helper_process() else ()
        loggers = make_loggers(names, self.folder, self.folder.stem)
        self.fabric = make_fabric(self.resources, job.training.precision, loggers)
        launch(self.fabric)
        self.data, self.origin = _data_info(job, train, val), origin(self.fabric)
        self.history = History(
            self.folder, job.source.labels, self._describe, write=self.fabric.is_global_zero
        )
        self.record = self._record(replace=replace)
        loop = self._loop(train, val, teacher)
        if resume_from is not None:
            self._resume(loop, resume_from)
        if self.fabric.is_global_zero:
            self.record.write(self.folder)
        try:
            with self.stop, self.report.training():
                loop.run()
        finally:
            finish(loggers)

    def _prepared(self, name: SplitName) -> PreparedSplit:
        """Read a split; only the first process says so."""
        job, split = self.job, self.job.source.split(name)
        with self.report.reading(name, len(split.names)) as progress:
            return prepare(
                split,
                job.size,
                job.source.labels.num_classes,
                keep_truth=name == "val",
                cache=self.resources.cache,
                skip_bad=job.options.skip_bad,
                progress=progress,
                note=self.report.note,
            )

    def _loop(
        self, train: PreparedSplit, val: PreparedSplit, teacher: SegmentationNetwork | None
    ) -> TrainingLoop:
        job, config, fabric = self.job, self.job.training, self.fabric
        batches = EpochBatches(
            len(train),
            config.batch_size,
            seed=config.seed,
            accumulate=config.accumulate,
            devices=fabric.world_size,
            rank=fabric.global_rank,
        )
        workers = self.resources.workers
        if workers is None:
            workers = default_workers(train, self.resources.devices or 1)
        evaluated = EvaluationSplit(val, devices=fabric.world_size, rank=fabric.global_rank)
        data = Data(
            batches,
            training_loader(train, batches, config.augmentation, workers),
            evaluation_loader(evaluated, config.batch_size, workers),
        )
        fabric.seed_everything(config.seed, verbose=False)
        unet = UNet(job.model)
        initialise(unet)
        network = SegmentationNetwork(unet, job.preprocessing.mean, job.preprocessing.std)
        criterion = SegmentationLoss(
            config.loss,
            class_weights=_class_weights(config, train.counts),
            label_smoothing=config.label_smoothing,
            hardest=config.hardest,
        )
        hooks = Hooks(lambda: bool(self.stop.number), self._save, self.report.step, self._epoch)
        return TrainingLoop(fabric, network, criterion, config, data, hooks, teacher)

    def _save(self, loop: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            state = {"job": self.record.model_dump_json(), "data": self.data.model_dump_json()}
            save_checkpoint(self.folder, {**state, "loop": loop, "history": self.history.state()})

    def _resume(self, loop: TrainingLoop, folder: Path) -> None:
        """Go on from the newest checkpoint, if it belongs to this job and this data."""
        state = load_checkpoint(folder, self.report.note)
        if state.get("data") != self.data.model_dump_json():
            raise ArtifactError(
                f"the data {show(self.data.spec)} changed since the training of {show(folder)} "
                "began; put it back, or start again with --force"
            )
        if state.get("job") != self.record.model_dump_json():
            raise ArtifactError(
                f"the checkpoint in {show(folder)} belongs to another job than its job.json, or "
                "to another number of processes; start again with --force"
            )
        loop.load_state(state["loop"])
        self.history.load_state(state["history"])
        self.report.note(f"continuing after step {loop.step} of {loop.total_steps}")

    def _epoch(self, epoch: Epoch, val: ConfusionMatrix, network: nn.Module) -> None:
        self.history.record(epoch, val, network)
        self.fabric.log_dict(scalars(epoch), step=epoch.step)
        if self.fabric.is_global_zero:
            self.report.epoch(epoch)
            if epoch.waiting > WAITING_LIMIT:
                self.report.note(_waiting_hint(epoch, cached=self.resources.cache is not None))

    def draw(self) -> None:
        """Draw the learning curves, and samples with the weights that were saved."""
        write_curves(self.history.epochs, self.folder)
        split, size = self.job.source.split("val"), self.job.size
        network = load_network(self.folder, self.history.config())
        rows = []
        for index in drawn(len(split.names), SAMPLE_ROWS):
            if split.names[index] in self.data.skipped:
                continue
            image, truth = split.image(index), split.mask(index)
            with torch.inference_mode():
                logits = network(torch.tensor(resize_image(image, *size))[None])
            class_map = logits[0].argmax(0).to(torch.uint8).numpy()
            rows.append((image, truth, resize_class_map(class_map, *truth.shape)))
        write_samples(rows, self.job.source.labels, self.folder)

    def _describe(self, result: Result) -> RunConfig:
        return RunConfig(
            model=self.job.model,
            preprocessing=self.job.preprocessing,
            labels=self.job.source.labels,
            training=self.job.training,
            data=self.data,
            result=result,
            origin=self.origin,
        )

    def _record(self, *, replace: bool) -> JobRecord:
        job = self.job
        return JobRecord(
            spec=job.source.spec,
            options=job.options,
            model=job.model,
            preprocessing=job.preprocessing,
            training=job.training,
            processes=self.fabric.world_size,
            replace=replace,
        )


def initialise(unet: UNet) -> None:
    """Draw convolution weights as He et al. (arXiv:1502.01852, fan-out); biases start at 0."""
    for layer in unet.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _check_batch_norm(job: Job) -> None:
    """Refuse what batch norm cannot normalise: one value per channel."""
    multiple = job.model.size_multiple
    lowest = [-(-side // multiple) for side in job.size]
    if job.training.batch_size == 1 and lowest == [1, 1]:
        raise InputError(
            f"at {job.size[0]}x{job.size[1]} the lowest level has one pixel, and with batches of 1 "
            "batch norm has nothing to average; use a larger --size or --batch-size"
        )


def _teacher(job: Job) -> SegmentationNetwork | None:
    """Load the run to learn from.

    Raises:
        ArtifactError: not usable, not the run that the job names, or with other classes.
    """
    settings = job.training.teacher
    if settings is None:
        return None
    run = Path(settings.run)
    config = read_config(run)
    if config.labels.names != job.source.labels.names:
        raise ArtifactError(
            f"teacher {show(run)} knows {config.labels.num_classes} other classes than the data's "
            f"{job.source.labels.num_classes}"
        )
    network = load_network(run, config)
    if weights_sha256(run) != settings.weights_sha256:
        raise ArtifactError(f"teacher {show(run)} is not the one that this training began with")
    return network


def _class_weights(config: TrainingConfig, counts: ClassCounts) -> torch.Tensor | None:
    if config.class_weights == "none":
        return None
    if config.class_weights == "median-frequency":
        weights = median_frequency_weights(counts.pixels, counts.pixels_of_images_with)
    else:
        weights = inverse_log_weights(counts.pixels)
    return torch.tensor(weights)


def _data_info(job: Job, train: PreparedSplit, val: PreparedSplit) -> DataInfo:
    return DataInfo(
        spec=job.source.spec,
        ignore_index=job.options.ignore_index,
        reduce_zero_label=job.options.reduce_zero_label,
        train_images=len(train),
        val_images=len(val),
        train_fingerprint=train.fingerprint,
        val_fingerprint=val.fingerprint,
        skipped=(*train.skipped, *val.skipped),
    )


def _waiting_hint(epoch: Epoch, *, cached: bool) -> str:
    more = "use more --workers" if cached else "use more --workers, or the cache"
    return (
        f"warning: reading data limits the training: {epoch.waiting:.0%} of the time went to "
        f"waiting for it ({epoch.images_per_second:.0f} images/s trained, the loader gives "
        f"{epoch.loader_images_per_second:.0f}); {more}"
    )
