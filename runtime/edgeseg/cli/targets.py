"""Which pictures a command line names, and where their masks go."""

from __future__ import annotations

import glob
from pathlib import Path

from edgeseg.errors import InputError, UsageError, show
from edgeseg.images import IMAGE_SUFFIXES
from edgeseg.manifest import MANIFEST


def expand_sources(sources: list[str]) -> list[Path]:
    """Turn files, folders and patterns into a list of image files, sorted within each source.

    Raises:
        UsageError: an empty source.
        InputError: a folder without images, a pattern without files, one missing file.
    """
    found: list[Path] = []
    for source in sources:
        if not source:
            raise UsageError("a source is empty; an unset shell variable?")
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


def plan_targets(
    images: list[Path], out: Path, *, overlay: bool, force: bool
) -> list[tuple[Path, Path]]:
    """Pair each image with its mask's path; refuse collisions before any work is done.

    Raises:
        UsageError: two outputs for one path, an output over an input, existing outputs
            without ``force``, masks inside a bundle.
    """
    if (out / MANIFEST).exists():
        raise UsageError(f"output {show(out)} is a bundle; masks in it would make it invalid")
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
    overlays = [overlay_path(target) for target in targets] if overlay else []
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


def overlay_path(target: Path) -> Path:
    """Return where the overlay of a mask goes."""
    return target.with_name(f"{target.stem}.overlay.png")
