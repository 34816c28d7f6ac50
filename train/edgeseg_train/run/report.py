"""What a training tells while it runs; the base class stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from edgeseg_train.run.history import Epoch
from edgeseg_train.run.loop import Step


class Reporter:
    """Hears of everything; override what should be shown."""

    def note(self, text: str) -> None:
        """Hear one line for people."""

    @contextmanager
    def reading(self, split: str, samples: int) -> Iterator[Callable[[int], None]]:
        """Surround the first reading of a split; the body reports numbers of samples read."""
        yield lambda count: None

    def training(self) -> AbstractContextManager[object]:
        """Surround the training."""
        return nullcontext()

    def step(self, step: Step) -> None:
        """Hear of an optimiser step."""

    def epoch(self, epoch: Epoch) -> None:
        """Hear of a finished epoch."""
