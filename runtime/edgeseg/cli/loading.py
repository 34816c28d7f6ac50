"""The model of a command line: which bundle, backend and variant, and how to open it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output
from edgeseg.preprocess import parse_size
from edgeseg.segmenter import Segmenter
from edgeseg.sessions import Choice, choose


@dataclass(frozen=True)
class Model:
    """What will run; nothing is loaded yet."""

    bundle: Bundle
    choice: Choice
    load: Callable[[], Segmenter]

    @classmethod
    def settle(
        cls, bundle: Path, backend: str, variant: str | None, size: str | None, **options: Any
    ) -> Model:
        """Choose backend and variant; ``options`` are those of ``Segmenter.load``.

        Raises:
            ArtifactError, DeviceError, UsageError: see ``Bundle.open`` and ``choose``.
        """
        opened = Bundle.open(bundle)
        choice = choose(opened, backend, variant)
        wanted = parse_size(size) if size else None
        load = partial(Segmenter.load, opened, choice.backend, choice.variant, wanted, **options)
        return cls(opened, choice, load)

    def open(self, output: Output) -> Segmenter:
        """Say what will run, load it, and say what falls back if anything does."""
        output.note(f"{self.choice.variant} on {self.choice.backend} ({self.choice.why})")
        segmenter = self.load()
        if fallback := segmenter.session.fallback:
            output.note(f"fallback: {fallback}")
        return segmenter

    def describe(self, segmenter: Segmenter) -> dict[str, Any]:
        """Return what ran, for the command's document."""
        return {
            "backend": self.choice.backend,
            "variant": self.choice.variant,
            "fallback": segmenter.session.fallback,
        }
