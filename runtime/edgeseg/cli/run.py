"""``edgeseg run BUNDLE SOURCE... --out DIR``: segment files, folders and globs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output, command_app
from edgeseg.cli.targets import expand_sources, overlay_path, plan_targets
from edgeseg.errors import InputError
from edgeseg.images import read_image
from edgeseg.preprocess import parse_size
from edgeseg.segmentation import Segmentation, save_png
from edgeseg.segmenter import Segmenter
from edgeseg.sessions import AUTO, BACKENDS, choose

BundleArgument = Annotated[Path, typer.Argument(help="Folder that 'edgeseg export' wrote.")]
BackendOption = Annotated[str, typer.Option(help=f"{AUTO}, {', '.join(BACKENDS)}.")]
VariantOption = Annotated[
    str | None, typer.Option(help="Variant of the model; default: the best for the backend.")
]


def main(
    ctx: typer.Context,
    bundle: BundleArgument,
    sources: Annotated[list[str], typer.Argument(help="Images, folders or glob patterns.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks (made if missing).")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME.overlay.png.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images per network call.")] = 1,
    backend: BackendOption = AUTO,
    variant: VariantOption = None,
    size: Annotated[
        str | None, typer.Option(help="HxW to run at, for bundles with a dynamic size.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing masks.")] = False,
) -> int:
    """Write one palette PNG of class ids per image, at the image's own size.

    Pictures that cannot be read are listed, the others are segmented, and the exit status is 3.
    """
    opened = Bundle.open(bundle)
    choice = choose(opened, backend, variant)
    targets = plan_targets(expand_sources(sources), out, overlay=overlay, force=force)
    wanted = parse_size(size) if size else None
    output: Output = ctx.obj
    output.note(f"{choice.variant} on {choice.backend} ({choice.why})")
    with Segmenter.load(opened, choice.backend, choice.variant, wanted) as segmenter:
        out.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        entries = _segment_all(segmenter, targets, batch, overlay=overlay, output=output)
        seconds = time.perf_counter() - start
    failed = [entry for entry in entries if "error" in entry]
    done = len(entries) - len(failed)
    document = {
        "backend": choice.backend,
        "variant": choice.variant,
        "out": str(out),
        "images": entries,
        "segmented": done,
        "failed": len(failed),
        "seconds": round(seconds, 3),
    }
    rate = f"{done / seconds:.1f} images/s" if done else "nothing segmented"
    summary = (
        f"{done} of {len(entries)} images segmented in {seconds:.1f} s ({rate}); masks in {out}"
    )
    output.result(document, summary)
    for entry in failed:
        output.error(entry["error"])
    return InputError.exit_code if failed else 0


def _segment_all(
    segmenter: Segmenter,
    targets: list[tuple[Path, Path]],
    batch: int,
    *,
    overlay: bool,
    output: Output,
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    with output.progress("segmenting", len(targets)) as advance:
        for start in range(0, len(targets), batch):
            chunk = targets[start : start + batch]
            entries += _segment_chunk(segmenter, chunk, overlay=overlay)
            advance(len(chunk))
    return entries


def _segment_chunk(
    segmenter: Segmenter, chunk: list[tuple[Path, Path]], *, overlay: bool
) -> list[dict[str, Any]]:
    good, entries = [], []
    for image, target in chunk:
        try:
            good.append((image, target, read_image(image)))
        except InputError as error:
            entries.append({"image": str(image), "error": str(error)})
    results = segmenter.batch([pixels for _, _, pixels in good])
    for (image, target, _), result in zip(good, results, strict=True):
        _write(result, target, overlay=overlay)
        entries.append({"image": str(image), "mask": str(target), **result.to_dict()})
    return entries


def _write(result: Segmentation, target: Path, *, overlay: bool) -> None:
    result.save(target)
    if overlay:
        save_png(result.overlay(), overlay_path(target))


app = command_app(main)
