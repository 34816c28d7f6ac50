"""The session that a worker process holds, and what it does with a batch of pictures."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeseg.bundle import Bundle
from edgeseg.cluster.places import Place
from edgeseg.cluster.plan import Item
from edgeseg.errors import EdgeSegError, InputError
from edgeseg.manifest import MANIFEST
from edgeseg.segmentation import Segmentation, encode_png
from edgeseg.segmenter import Prepared, Segmenter

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What every worker needs.

    Attributes:
        files: the bundle's, by name; their hashes are checked again where they arrive.
        backend, variant: as ``edgeseg.sessions.choose`` settled them.
        options: of ``Segmenter.load``.
        source, out: where the pictures are and the masks go.
    """

    files: Mapping[str, bytes]
    backend: str
    variant: str
    options: Mapping[str, Any]
    source: Place
    out: Place


class Worker:
    """A loaded bundle; ``map_batches`` makes one per process and calls it with batches of items.

    Errors are answers: Ray would wrap an exception, and try again what cannot succeed.
    """

    def __init__(self, task: Task) -> None:
        """Load the bundle; if that fails, every batch is answered with the reason."""
        self._task = task
        self._fatal: EdgeSegError | None = None
        try:
            self._segmenter = _load(task)
        except EdgeSegError as error:
            self._fatal = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Segment the pictures named in ``image`` and write the masks named in ``mask``.

        Masks that are ``kept`` are only counted, unless they are damaged.
        """
        columns = (batch[name].tolist() for name in ("image", "mask", "kept"))
        items = [Item(*values) for values in zip(*columns, strict=True)]
        if self._fatal is None:
            try:
                return _columns(self._answer(items))
            except EdgeSegError as error:
                self._fatal = error
        reason = json.dumps({"type": type(self._fatal).__name__, "message": str(self._fatal)})
        return _columns([_row(item, fatal=reason) for item in items])

    def _answer(self, items: Sequence[Item]) -> list[Row]:
        rows = {item: row for item in items if (row := self._kept(item)) is not None}
        rows |= self._segment([item for item in items if item not in rows])
        return [rows[item] for item in items]

    def _kept(self, item: Item) -> Row | None:
        """Return the row of a mask that is there and whole, else None."""
        if not item.kept:
            return None
        try:
            data = self._task.out.read(item.mask)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                class_map = np.asarray(image)
        except (InputError, OSError, SyntaxError, ValueError):
            return None
        result = Segmentation(class_map, self._segmenter.labels, data, {})
        return _row(item, result)

    def _segment(self, items: Sequence[Item]) -> dict[Item, Row]:
        prepared = {item: self._prepare(item) for item in items}
        good = {item: one for item, one in prepared.items() if isinstance(one, Prepared)}
        rows = {i: _row(i, error=str(one)) for i, one in prepared.items() if i not in good}
        for item, answer in zip(good, self._segmenter.infer([*good.values()]), strict=True):
            result = self._segmenter.finish(answer)
            self._task.out.write(item.mask, encode_png(result.mask()))
            rows[item] = _row(item, result)
        return rows

    def _prepare(self, item: Item) -> Prepared | InputError:
        try:
            return self._segmenter.prepare(self._task.source.read(item.image))
        except InputError as error:
            return InputError(f"{self._task.source.named(item.image)}: {error}")


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """Return all files of a bundle, to be sent to the workers.

    Raises:
        ArtifactError: one of them is corrupt.
    """
    manifest = (bundle.path / MANIFEST).read_bytes()
    return {MANIFEST: manifest, **{name: bundle.read(name) for name in bundle.manifest.files}}


def _load(task: Task) -> Segmenter:
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as folder:
        for name, data in task.files.items():
            Path(folder, name).write_bytes(data)
        bundle = Bundle.open(folder)
        return Segmenter.load(bundle, task.backend, task.variant, **task.options)


def _row(
    item: Item, result: Segmentation | None = None, *, error: str = "", fatal: str = ""
) -> Row:
    found = result.to_dict() if result else {"height": 0, "width": 0}
    return {
        "image": item.image,
        "mask": item.mask if result else "",
        "height": found["height"],
        "width": found["width"],
        "coverage": json.dumps(found.get("coverage", {})),
        "timings_ms": json.dumps(found.get("timings_ms", {})),
        "error": error,
        "fatal": fatal,
    }


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}
