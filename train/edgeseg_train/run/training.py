"""Train: a job in, a run folder out. ``edgeseg train`` is a thin layer above."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from edgeseg.errors import ArtifactError, UsageError, one_line, show
from edgeseg.metrics import ConfusionMatrix
from edgeseg_train.data import SplitName, drawn, network_input
from edgeseg_train.run.checkpoint import load_checkpoint, save_checkpoint
from edgeseg_train.run.devices import choose_world, launch, make_fabric
from edgeseg_train.run.history import Epoch, History
from edgeseg_train.run.job import Job, JobRecord, Resources
from edgeseg_train.run.loggers import finish, make_loggers, scalars
from edgeseg_train.run.loop import Data, Hooks, Interrupted, TrainingLoop
from edgeseg_train.run.origin import origin
from edgeseg_train.run.outcome import ended_early, explain
from edgeseg_train.run.pictures import write_curves, write_samples
from edgeseg_train.run.processes import (
    World,
    cluster,
    end_with_parent,
    helpers,
    is_helper_process,
    tell_first_process,
)
from edgeseg_train.run.report import Reporter
from edgeseg_train.run.setup import (
    check_batch_norm,
    check_labelled,
    data_info,
    load_teacher,
    make_criterion,
    make_network,
)
from edgeseg_train.run.signals import StopRequest
from edgeseg_train.run.workspace import open_again, open_new, partial_folder
from edgeseg_train.run_folder import Result, RunConfig, load_network, read_config
from edgeseg_train.samples.batches import (
    EpochBatches,
    EvaluationSplit,
    default_workers,
    evaluation_loader,
    training_loader,
)
from edgeseg_train.samples.prepare import PreparedSplit, prepare
from edgeseg_train.unet import SegmentationNetwork

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
        ended = ended_early(error, workspace, run.stop.number)
        workspace.leave(keep=resume or workspace.has_checkpoint)
        raise ended from error
    workspace.finish(force=force)
    return read_config(out)


def _help(job: Job, out: Path, *, resume: bool, resources: Resources) -> NoReturn:
    """Train on another device than the first, in a folder that nobody reads, and exit."""
    end_with_parent()
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(job, Path(folder), resources, Reporter())
        try:
            run.fit(partial_folder(out) if resume else None, replace=False)
        except Interrupted:
            sys.exit(0)  # the first process tells of it
        except Exception as error:
            explained = explain(error)
            tell_first_process(explained)
            sys.stderr.write(f"edgeseg: error: {one_line(str(explained))}\n")
            sys.exit(explained.exit_code)
    sys.exit(0)  # the first process writes the run folder and reports


class _Run:
    """One call of ``train`` in one process."""

    def __init__(self, job: Job, folder: Path, resources: Resources, report: Reporter) -> None:
        self.job, self.folder, self.resources, self.report = job, folder, resources, report
        self.stop = StopRequest()

    def fit(self, resume_from: Path | None, *, replace: bool) -> None:
        """Read the data, set everything up, and train to the end."""
        job = self.job
        check_batch_norm(job)
        world = choose_world(self.resources)
        environment = cluster(world)
        names = self.resources.loggers if not is_helper_process() else ()
        loggers = make_loggers(names, self.folder, self.folder.stem)
        self.fabric = make_fabric(world, environment, job.training.precision, loggers)
        self._batches(len(job.source.split("train").names), world, rank=0)  # enough images?
        teacher = load_teacher(job)
        train, val = self._prepared("train"), self._prepared("val")
        self.data, self.record = data_info(job, train, val), self._record(world, replace=replace)
        finished = False
        try:
            with helpers(world, environment, self.folder), self.stop:
                launch(self.fabric, world)
                loop = self._loop(train, val, teacher, world)
                if resume_from is not None:
                    self._resume(loop, resume_from)
                if self.fabric.is_global_zero:
                    self.record.write(self.folder)
                with self.report.training():
                    loop.run()
            finished = True
        finally:
            finish(loggers, success=finished)

    def _prepared(self, name: SplitName) -> PreparedSplit:
        """Read a split; only the first process says so."""
        job, split = self.job, self.job.source.split(name)
        with self.report.reading(name, len(split.names)) as progress:
            prepared = prepare(
                split,
                job.preprocessing,
                job.source.labels.num_classes,
                keep_truth=name == "val",
                cache=self.resources.cache,
                skip_bad=job.options.skip_bad,
                progress=progress,
                note=self.report.note,
            )
        check_labelled(prepared, name)
        return prepared

    def _batches(self, images: int, world: World, rank: int) -> EpochBatches:
        config = self.job.training
        return EpochBatches(
            images,
            config.batch_size,
            seed=config.seed,
            accumulate=config.accumulate,
            devices=world.size,
            rank=rank,
        )

    def _loop(
        self,
        train: PreparedSplit,
        val: PreparedSplit,
        teacher: SegmentationNetwork | None,
        world: World,
    ) -> TrainingLoop:
        job, config, fabric = self.job, self.job.training, self.fabric
        self.origin = origin(fabric)
        self.history = History(
            self.folder, job.source.labels, self._describe, write=fabric.is_global_zero
        )
        workers = self.resources.workers
        if workers is None:
            workers = default_workers(train, world.devices)
        batches = self._batches(len(train), world, fabric.global_rank)
        evaluated = EvaluationSplit(val, devices=world.size, rank=fabric.global_rank)
        data = Data(
            batches,
            training_loader(train, batches, config.augmentation, workers),
            evaluation_loader(evaluated, config.batch_size, workers),
            job.preprocessing,
        )
        fabric.seed_everything(config.seed, verbose=False)
        network, criterion = make_network(job), make_criterion(config, train.counts)
        hooks = Hooks(lambda: self.stop.number, self._save, self.report.step, self._epoch)
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
        began = JobRecord.model_validate_json(state["job"])
        if (began.devices, began.nodes) != (self.record.devices, self.record.nodes):
            raise UsageError(
                f"the training of {show(folder)} began on {began.devices} devices of {began.nodes} "
                f"machines; resume it with --devices {began.devices} --nodes {began.nodes}"
            )
        if began != self.record:
            raise ArtifactError(
                f"the checkpoint in {show(folder)} belongs to another job than its job.json; "
                "start again with --force"
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
        split, fit = self.job.source.split("val"), self.job.preprocessing
        network = load_network(self.folder, self.history.config())
        rows = []
        for index in drawn(len(split.names), SAMPLE_ROWS):
            if split.names[index] in self.data.skipped:
                continue
            image, truth = split.image(index), split.mask(index)
            with torch.inference_mode():
                pixels, _ = network_input(split, index, fit)
                logits = network(torch.tensor(pixels)[None])
            class_map = logits[0].argmax(0).to(torch.uint8).numpy()
            rows.append((image, truth, fit.restore_class_map(class_map, *truth.shape)))
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

    def _record(self, world: World, *, replace: bool) -> JobRecord:
        job = self.job
        return JobRecord(
            spec=job.source.spec,
            options=job.options,
            model=job.model,
            preprocessing=job.preprocessing,
            training=job.training,
            devices=world.devices,
            nodes=world.nodes,
            replace=replace,
        )


def _waiting_hint(epoch: Epoch, *, cached: bool) -> str:
    more = "use more --workers" if cached else "use more --workers, or the cache"
    return (
        f"warning: reading data limits the training: {epoch.waiting:.0%} of the time went to "
        f"waiting for it ({epoch.images_per_second:.0f} images/s trained, the loader gives "
        f"{epoch.loader_images_per_second:.0f}); {more}"
    )
