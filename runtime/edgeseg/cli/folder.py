"""``edgeseg run`` over pictures: decoding and writing overlap the network, memory is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.cli.loading import Model
from edgeseg.cli.output import Output
from edgeseg.cli.targets import Target, expand_sources, plan_targets
from edgeseg.errors import DeviceError, InputError, UsageError
from edgeseg.images import read_image
from edgeseg.outputs import save
from edgeseg.segmenter import Segmenter
from edgeseg.streams.pipeline import Done, Stages, pipelined

Entry = dict[str, Any]
AnyStages = Stages[Target, Any, Any, Entry]


@dataclass(frozen=True)
class FolderWish:
    """How pictures are to be segmented; see the options of the command."""

    out: Path
    formats: Sequence[str]
    batch: int
    force: bool
    skip_existing: bool
    fail_fast: bool
    overlap: int | None = None  # of tiles; None: no tiles

    @property
    def tiled(self) -> bool:
        """Whether pictures are cut into tiles."""
        return self.overlap is not None


class _Tally:
    """What became of the pictures; keeps an entry of each only for ``--json``."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.entries: list[Entry] = []
        self.errors: list[str] = []
        self.segmented = self.kept = 0

    def add(self, done: Done[Target, Entry]) -> None:
        names = {"image": str(done.item.image)}
        if isinstance(done.outcome, InputError):
            self.errors.append(str(done.outcome))
            self._enter({**names, "error": str(done.outcome)})
        else:
            self.segmented += 1
            self._enter({**names, **done.outcome})

    def add_kept(self, target: Target) -> None:
        self.kept += 1
        self._enter({"image": str(target.image), **_files(target), "skipped": True})

    def _enter(self, entry: Entry) -> None:
        if self.keep:
            self.entries.append(entry)


def run_folder(model: Model, sources: Sequence[str], wish: FolderWish, output: Output) -> int:
    """Segment files, folders and patterns; return the exit status.

    Raises:
        UsageError: see ``plan_targets``.
        InputError: no pictures; with ``--fail-fast`` the first bad one.
    """
    if wish.force and wish.skip_existing:
        raise UsageError("--force overwrites what --skip-existing keeps; give one of them")
    overwrite = wish.force or wish.skip_existing
    targets = plan_targets(
        expand_sources(sources), wish.out, wish.formats, overwrite=overwrite, tiled=wish.tiled
    )
    with model.open(output) as segmenter:
        stages = _tile_stages(segmenter, wish) if wish.tiled else _stages(segmenter, wish)
        wish.out.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        tally = _segment(targets, stages, wish, output)
        seconds = time.perf_counter() - start
    document = {
        **model.describe(segmenter),
        "out": str(wish.out),
        "images": tally.entries,
        "segmented": tally.segmented,
        "skipped": tally.kept,
        "failed": len(tally.errors),
        "seconds": round(seconds, 3),
    }
    output.result(document, _summary(tally, len(targets), seconds, wish.out))
    for error in tally.errors:
        output.error(error)
    return InputError.exit_code if tally.errors else 0


def _summary(tally: _Tally, total: int, seconds: float, out: Path) -> str:
    rate = f"{tally.segmented / seconds:.1f} images/s" if tally.segmented else "nothing segmented"
    kept = f", {tally.kept} were there already" if tally.kept else ""
    return (
        f"{tally.segmented} of {total} images segmented in {seconds:.1f} s ({rate}){kept}; "
        f"masks in {out}"
    )


def _segment(
    targets: Sequence[Target], stages: AnyStages, wish: FolderWish, output: Output
) -> _Tally:
    tally = _Tally(keep=output.as_json)
    kept = {target.image for target in targets if wish.skip_existing and target.is_whole()}
    todo = [target for target in targets if target.image not in kept]
    # Tiles are for large pictures, of which more than two under way would cost too much memory.
    workers, depth = (1, 2) if wish.tiled else (None, None)
    batch = 1 if wish.tiled else wish.batch
    with (
        output.progress("segmenting", len(todo)) as advance,
        closing(pipelined(todo, stages, batch=batch, workers=workers, depth=depth)) as results,
    ):
        try:
            for target in targets:
                if target.image in kept:
                    tally.add_kept(target)
                    continue
                done = next(results)
                if wish.fail_fast and isinstance(done.outcome, InputError):
                    raise done.outcome
                tally.add(done)
                advance(1)
        except KeyboardInterrupt as interrupt:
            raise type(interrupt)(
                f"{tally.segmented} of {len(targets)} images were segmented; "
                "--skip-existing goes on from there"
            ) from interrupt
    return tally


def _stages(segmenter: Segmenter, wish: FolderWish) -> AnyStages:
    def finish(target: Target, answer: Any) -> Entry:
        result = segmenter.finish(answer)
        save(result, target.mask, wish.formats)
        return {**_files(target), **result.to_dict()}

    return Stages(lambda target: segmenter.prepare(target.image), segmenter.infer, finish)


def _tile_stages(segmenter: Segmenter, wish: FolderWish) -> AnyStages:
    """Return stages that cut pictures into tiles; a TIFF beyond all limits is never in memory."""
    from edgeseg.tiling import MaskFile, TiledSegmenter, segment_tiff

    assert wish.overlap is not None
    tiled = TiledSegmenter(segmenter, wish.overlap, batch=wish.batch)
    stopped = threading.Event()

    def go_on(done: int, total: int) -> None:
        if stopped.is_set():  # a large picture takes minutes; its next tile may not
            raise DeviceError("stopped between two tiles")

    def prepare(target: Target) -> tuple[Target, NDArray[np.uint8] | None]:
        return target, None if target.is_large else read_image(target.image)

    def infer(prepared: Sequence[tuple[Target, NDArray[np.uint8] | None]]) -> list[Any]:
        return [_attempt(one) for one in prepared]

    def _attempt(prepared: tuple[Target, NDArray[np.uint8] | None]) -> Any:
        target, pixels = prepared
        try:
            if pixels is None:
                return segment_tiff(tiled, target.image, target.mask, go_on)
            return replace(tiled(pixels, go_on), name=target.image.name)
        except InputError as error:  # found while reading a large picture; the others go on
            return error

    def finish(target: Target, answer: Any) -> Entry:
        if isinstance(answer, InputError):
            raise answer
        if not isinstance(answer, MaskFile):
            save(answer, target.mask, wish.formats)
        return {**_files(target), **answer.to_dict()}

    return Stages(prepare, infer, finish, stopped.set)


def _files(target: Target) -> dict[str, Any]:
    """Return the names of a picture's files: the mask, and all of them where there are more."""
    files = {name: str(path) for name, path in target.files.items()}
    mask = {"mask": str(target.mask)} if target.mask in target.files.values() else {}
    return {**mask, **({"files": files} if len(mask) < len(files) else {})}
