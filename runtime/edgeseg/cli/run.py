"""``edgeseg run BUNDLE SOURCE... --out DIR``: segment files, folders and globs."""

from __future__ import annotations

import glob
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.output import Output, command_app
from edgeseg.errors import InputError, UsageError, show
from edgeseg.images import IMAGE_SUFFIXES, read_image
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
    targets = _targets(_expand(sources), out, overlay=overlay, force=force)
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


def _expand(sources: list[str]) -> list[Path]:
    """Turn files, folders and patterns into a list of image files, sorted within each source."""
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if _is_picture_name(p))
            if not inside:
                raise InputError(f"folder {show(source)} has no images")
            found += inside
        elif path.exists() or not glob.has_magic(source):
            found.append(path)  # a missing file is reported like any unreadable one
        else:
            matches = [Path(match) for match in glob.glob(source, recursive=True)]  # noqa: PTH207 - patterns may be absolute
            files = sorted(match for match in matches if match.is_file())
            if not files:
                raise InputError(f"pattern {show(source)} matches no file")
            found += files
    if len(found) == 1 and not found[0].exists():
        raise InputError(f"file {show(found[0])} does not exist")
    return list(dict.fromkeys(found))


def _is_picture_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _targets(
    images: list[Path], out: Path, *, overlay: bool, force: bool
) -> list[tuple[Path, Path]]:
    """Pair each image with its mask's path; refuse collisions before any work is done."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"output {show(out)} is a file; expected a folder for the masks")
    targets: dict[Path, Path] = {}
    inputs = {image.resolve(): image for image in images}
    for image in images:
        target = out / f"{image.stem}.png"
        if target in targets:
            raise UsageError(
                f"{show(image)} and {show(targets[target])} would both be written to {show(target)}"
            )
        targets[target] = image
    overlays = [_overlay_path(target) for target in targets] if overlay else []
    if twice := targets.keys() & set(overlays):
        raise UsageError(
            f"a mask and an overlay would both be written to {show(min(twice))}; rename that image"
        )
    for path in [*targets, *overlays]:
        if clash := inputs.get(path.resolve()):
            raise UsageError(f"{show(clash)} would be overwritten; choose another --out")
        if path.is_dir():
            raise UsageError(f"output {show(path)} is a folder; expected a place for a mask")
    existing = [path for path in [*targets, *overlays] if path.exists()]
    if existing and not force:
        raise UsageError(f"output {show(existing[0])} exists already; add --force to overwrite")
    return [(image, target) for target, image in targets.items()]


def _overlay_path(target: Path) -> Path:
    return target.with_name(f"{target.stem}.overlay.png")


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
        save_png(result.overlay(), _overlay_path(target))


app = command_app(main)
