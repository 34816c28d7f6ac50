"""``edgeseg run BUNDLE SOURCE... --out PLACE``: segment pictures, a video or a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.loading import Model
from edgeseg.cli.options import (
    BackendOption,
    BundleArgument,
    FallbackOption,
    SizeOption,
    ThreadsOption,
    VariantOption,
)
from edgeseg.cli.output import Output, command_app
from edgeseg.cli.wishes import list_formats, plan_tiles
from edgeseg.errors import UsageError, show
from edgeseg.outputs import FORMATS, needs_confidence
from edgeseg.preprocess import parse_size
from edgeseg.sessions import AUTO
from edgeseg.streams.source import is_stream, redacted

ALPHA = 0.55
PICTURES = ("formats", "overlay", "confidence", "tile", "overlap", "skip_existing", "fail_fast")
STREAMS = ("alpha", "drop", "limit", "seconds", "window")
RAY = ("ray_address", "workers", "gpus_per_worker")
NOT_WITH_RAY = (*(name for name in PICTURES if name != "skip_existing"), *STREAMS)
_FOR_PICTURES = "Pictures"
_FOR_STREAMS = "Video and cameras"
_FOR_RAY = "Several machines"


def main(
    ctx: typer.Context,
    bundle: BundleArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders or glob patterns; or one stream: a video file, rtsp://..., "
            "/dev/video0, csi://0. With --ray one folder or address (s3://...)."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(help="Folder for the masks (made if missing), or the video to write."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images per network call.")] = 1,
    backend: BackendOption = AUTO,
    variant: VariantOption = None,
    size: SizeOption = None,
    threads: ThreadsOption = None,
    allow_fallback: FallbackOption = False,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth", help="Smooth edges: enlarge logits, not class maps, where there are any."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing outputs.")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"What to write, also several: {','.join(FORMATS)}. [default: png]",
            rich_help_panel=_FOR_PICTURES,
        ),
    ] = None,
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay", help="Also write NAME.overlay.png.", rich_help_panel=_FOR_PICTURES
        ),
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write NAME.confidence.png: the lead of the best class.",
            rich_help_panel=_FOR_PICTURES,
        ),
    ] = False,
    tile: Annotated[
        str | None,
        typer.Option(
            help="Cut pictures into tiles of HxW instead of resizing them.",
            rich_help_panel=_FOR_PICTURES,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Pixels that tiles share; default: see --tile.",
            rich_help_panel=_FOR_PICTURES,
        ),
    ] = None,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Keep outputs that are there and whole: go on after an interrupt.",
            rich_help_panel=_FOR_PICTURES,
        ),
    ] = False,
    fail_fast: Annotated[
        bool,
        typer.Option(
            "--fail-fast", help="Stop at the first bad picture.", rich_help_panel=_FOR_PICTURES
        ),
    ] = False,
    alpha: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Weight of the class colours.", rich_help_panel=_FOR_STREAMS
        ),
    ] = ALPHA,
    drop: Annotated[
        bool | None,
        typer.Option(
            "--drop/--no-drop",
            help="Take the newest frame, drop those that came meanwhile. "
            "[default: for cameras and live streams]",
            rich_help_panel=_FOR_STREAMS,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="End after so many frames.", rich_help_panel=_FOR_STREAMS),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="End after so many seconds of the stream.", rich_help_panel=_FOR_STREAMS
        ),
    ] = None,
    window: Annotated[
        bool,
        typer.Option(
            "--show", help="Show the stream in a window (OpenCV).", rich_help_panel=_FOR_STREAMS
        ),
    ] = False,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Spread the pictures over processes or machines, with Ray.",
            rich_help_panel=_FOR_RAY,
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A running cluster: auto, ray://HOST:PORT; default: one on this machine.",
            rich_help_panel=_FOR_RAY,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="Sessions at a time.", rich_help_panel=_FOR_RAY),
    ] = 2,
    gpus_per_worker: Annotated[
        float,
        typer.Option(min=0, help="0.5 lets two share a GPU.", rich_help_panel=_FOR_RAY),
    ] = 0,
) -> int:
    """Write one palette PNG of class ids per image, at the image's own size; or a video.

    Pictures that cannot be read are listed, the others are segmented, and the exit status is 3.
    A stream becomes a video of its overlay; what was done before it broke off is kept.
    """
    streams = [] if ray else [source for source in sources if is_stream(source)]
    _check_together(ctx, sources, streams, ray=ray)
    if out == "":
        raise UsageError("--out is empty; an unset shell variable?")
    if out is None and not window:
        raise UsageError("--out is missing: where the result goes; see --help")
    names = list_formats(formats, overlay=overlay, confidence=confidence)
    tiling = plan_tiles(tile, overlap, size, smooth=smooth, formats=names)
    model = Model.settle(
        bundle,
        backend,
        variant,
        tile or size,
        batch=batch,
        threads=threads,
        allow_fallback=allow_fallback,
        smooth=smooth,
        confidence=needs_confidence(names),
    )
    output: Output = ctx.obj
    if ray:
        from edgeseg.cli.cluster import run_cluster
        from edgeseg.cluster.job import JobOptions

        assert out is not None
        load = {"size": parse_size(size) if size else None, "smooth": smooth}
        job = JobOptions(ray_address, workers, threads or 1, gpus_per_worker, batch, load)
        return run_cluster(
            model, sources, out, job, output, force=force, skip_existing=skip_existing
        )
    place = None if out is None else Path(out)
    if streams:
        from edgeseg.cli.stream import StreamWish, run_stream

        stream_wish = StreamWish(place, window, force, alpha, drop, batch, limit, seconds)
        return run_stream(model, streams[0], stream_wish, output)
    from edgeseg.cli.folder import FolderWish, run_folder

    assert place is not None
    wish = FolderWish(place, names, batch, force, skip_existing, fail_fast, tiling)
    return run_folder(model, sources, wish, output)


def _check_together(
    ctx: typer.Context, sources: list[str], streams: list[str], *, ray: bool
) -> None:
    """Refuse a stream with anything else, and options that mean nothing to the sources."""
    if streams and len(sources) > 1:
        other = next((source for source in sources if source not in streams), sources[1])
        raise UsageError(
            f"{show(redacted(streams[0]))} is a stream and stands alone, but "
            f"{show(redacted(other))} is given, too; run them apart"
        )
    names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    given = {
        name
        for name in names
        if name and (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    for name in NOT_WITH_RAY if ray else RAY:
        if name in given:
            raise UsageError(f"{names[name]} is {'not ' * ray}for --ray; see --help")
    for name in PICTURES if streams else STREAMS:
        if name in given:
            kind = "pictures" if streams else "video and cameras"
            first = show(redacted(sources[0]))
            raise UsageError(f"{names[name]} is for {kind}; {first} is not; see --help")


app = command_app(main)
