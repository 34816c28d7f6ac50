"""A training on the terminal: notes and finished epochs as lines, the present as a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edgeseg.cli.output import Output
from edgeseg_train.run.history import Epoch
from edgeseg_train.run.loop import Step
from edgeseg_train.run.report import Reporter


class TerminalReporter(Reporter):
    """Tells ``output``; the bar shows steps, time left, loss, validation mIoU and images/s."""

    def __init__(self, output: Output) -> None:
        self.output = output
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  val mIoU {task.fields[miou]}"),
            TextColumn("{task.fields[rate]:.1f} images/s"),
            console=console,
            disable=output.quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, epoch=1, loss=0.0, miou="-", rate=0.0)

    def note(self, text: str) -> None:
        """Print a line on stderr."""
        self.output.note(text)

    @contextmanager
    def reading(self, split: str, samples: int) -> Iterator[Callable[[int], None]]:
        """Show a bar of samples read."""
        with self.output.progress(f"reading {split}", samples) as advance:
            yield advance

    def training(self) -> AbstractContextManager[object]:
        """Show the bar of steps."""
        return self._bar

    def step(self, step: Step) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            total=step.total_steps,
            completed=step.step,
            epoch=step.epoch,
            loss=step.loss,
            rate=step.images_per_second,
        )

    def epoch(self, epoch: Epoch) -> None:
        """Print the epoch as a line."""
        self._bar.update(self._task, miou=f"{epoch.val_miou:.3f}")
        self.note(epoch_line(epoch))


def epoch_line(epoch: Epoch) -> str:
    """Return one finished epoch as a line for people."""
    return (
        f"epoch {epoch.epoch} (step {epoch.step}, {epoch.seconds:.0f} s): "
        f"loss {epoch.train_loss:.3f} / {epoch.val_loss:.3f} val, "
        f"mIoU {epoch.train_miou:.3f} / {epoch.val_miou:.3f} val, "
        f"pixel accuracy {epoch.val_pixel_accuracy:.3f} val; "
        f"{epoch.images_per_second:.1f} images/s, loader {epoch.loader_images_per_second:.0f}"
    )
