"""``edgeseg run`` over a video file, a network stream or a camera."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.cli.loading import Model
from edgeseg.cli.output import Output
from edgeseg.errors import InputError, UsageError, show
from edgeseg.manifest import MANIFEST
from edgeseg.segmenter import Segmenter
from edgeseg.streams.source import Source, is_local, open_source
from edgeseg.streams.video import Outcome, Wish, segment_stream


@dataclass(frozen=True)
class StreamWish:
    """How a stream is to be segmented; see the options of the command."""

    out: Path | None
    show: bool
    force: bool
    alpha: float
    drop: bool | None
    batch: int
    limit: int | None
    seconds: float | None


def run_stream(model: Model, word: str, wish: StreamWish, output: Output) -> int:
    """Segment a stream; return the exit status.

    Raises:
        UsageError: the output exists, or is no name for a video.
        InputError: the stream cannot be opened.
        DeviceError: PyAV is missing, or OpenCV for a window or a CSI camera.
    """
    _check(word, wish)
    with ExitStack() as stack:
        segmenter = stack.enter_context(model.open(output))
        source = stack.enter_context(closing(open_source(word)))  # now, so that no frame gets old
        drop = source.live if wish.drop is None else wish.drop
        if drop and wish.batch > 1:
            raise UsageError("--batch waits for frames, which --drop never does; add --no-drop")
        if source.has_audio:
            output.note(f"the sound of {source.name} is not kept")
        outcome = _segment(source, segmenter, wish, output, drop=drop)
        document = {**model.describe(segmenter), "source": source.name}
    return _tell(outcome, document, wish, output)


def _check(word: str, wish: StreamWish) -> None:
    path = Path(word)
    if is_local(word):
        if not path.exists():
            raise InputError(f"file {show(word)} does not exist")
        if wish.drop:
            raise UsageError(f"--drop is for cameras; {show(word)} is a file, which can wait")
    if wish.out is None:
        return
    from edgeseg.streams.encode import check_video_name

    check_video_name(wish.out)
    if is_local(word) and wish.out.resolve() == path.resolve():
        raise UsageError(f"{show(word)} would be overwritten; choose another --out")
    if (wish.out.parent / MANIFEST).exists():
        raise UsageError(f"{show(wish.out.parent)} is a bundle; a video in it makes it invalid")
    if wish.out.is_dir():
        raise UsageError(f"output {show(wish.out)} is a folder; expected a file")
    if wish.out.exists() and not wish.force:
        raise UsageError(f"output {show(wish.out)} exists already; add --force to overwrite")


def _segment(
    source: Source, segmenter: Segmenter, wish: StreamWish, output: Output, *, drop: bool
) -> Outcome:
    from edgeseg.streams.encode import whole_video
    from edgeseg.streams.stopping import ending_on_interrupt
    from edgeseg.streams.window import Window

    how = Wish(wish.alpha, drop, wish.batch, wish.limit, wish.seconds)
    if source.live:
        output.note(f"segmenting {source.name}; Ctrl-C ends it")
    with ExitStack() as stack:
        window = stack.enter_context(Window(source.name)) if wish.show else None
        advance = stack.enter_context(_progress(source, wish, output))
        # A file that is interrupted leaves nothing; a camera ends no other way.
        stop = stack.enter_context(
            ending_on_interrupt() if source.live else nullcontext(threading.Event())
        )
        video = None
        if wish.out is not None:
            wish.out.parent.mkdir(parents=True, exist_ok=True)
            video = stack.enter_context(whole_video(wish.out, source.rate, source.time_base))
        return segment_stream(
            source, segmenter, how, video=video, window=window, stop=stop, advance=advance
        )


@contextmanager
def _progress(
    source: Source, wish: StreamWish, output: Output
) -> Iterator[Callable[[int], object]]:
    """Show a bar where an end is known."""
    known = [frames for frames in (source.expected, wish.limit) if frames is not None]
    if not known or wish.seconds is not None:
        yield lambda frames: None
        return
    with output.progress("segmenting", min(known)) as advance:
        yield advance


def _tell(outcome: Outcome, document: dict[str, Any], wish: StreamWish, output: Output) -> int:
    report, error = outcome.report, outcome.error
    written = wish.out if report.frames_done else None
    document |= {
        "out": str(written) if written else None,
        "ended": "error" if error else "stopped" if outcome.stopped else "end",
        **report.to_dict(),
    }
    output.result(document, f"{report}" + (f"; video in {written}" if written else ""))
    if error is None:
        return 0
    output.error(str(error))
    return error.exit_code
