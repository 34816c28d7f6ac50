"""Which pictures a command line names, and where their masks go."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgeseg.errors import InputError, UsageError, show
from edgeseg.images import IMAGE_SUFFIXES
from edgeseg.manifest import MANIFEST
from edgeseg.outputs import paths


@dataclass(frozen=True)
class Target:
    """A picture and the files that are made of it, by format; ``mask`` names them all.

    ``is_large``: a TIFF beyond the limit for pictures; its mask is a TIFF, too.
    """

    image: Path
    mask: Path
    files: dict[str, Path]
    is_large: bool = False

    def is_whole(self) -> bool:
        """Whether all files are there, and whole as far as they carry checksums."""
        return all(_is_whole(path) for path in self.files.values())


def expand_sources(sources: Sequence[str]) -> list[Path]:
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
    images: Sequence[Path],
    out: Path,
    formats: Sequence[str],
    *,
    overwrite: bool,
    tiled: bool = False,
) -> list[Target]:
    """Pair each image with its output files; refuse collisions before any work is done.

    With ``tiled``, TIFF files of any size are pictures.

    Raises:
        UsageError: two outputs for one path, an output over an input, existing outputs
            without ``overwrite``, masks inside a bundle, a format that a large TIFF cannot have.
    """
    if any((folder / MANIFEST).exists() for folder in (out, *out.absolute().parents)):
        raise UsageError(f"output {show(out)} is a bundle; masks in it would make it invalid")
    if out.exists() and not out.is_dir():
        raise UsageError(f"output {show(out)} is a file; expected a folder for the masks")
    targets = [_target(image, out, formats, tiled=tiled) for image in images]
    planned = _owners(targets)
    inputs = {os.path.realpath(image): image for image in images}
    for path in planned:
        if clash := inputs.get(os.path.realpath(path)):
            raise UsageError(f"{show(clash)} would be overwritten; choose another --out")
        if path.is_dir():
            raise UsageError(f"output {show(path)} is a folder; expected a place for a mask")
    existing = next((path for path in planned if path.exists()), None)
    if existing and not overwrite:
        raise UsageError(
            f"output {show(existing)} exists already; add --force to overwrite, "
            "or --skip-existing to go on from there"
        )
    return targets


def _target(image: Path, out: Path, formats: Sequence[str], *, tiled: bool) -> Target:
    mask = out / f"{image.stem}.png"
    if not tiled:
        return Target(image, mask, paths(mask, formats))
    from edgeseg.tiling import is_large_tiff

    if not is_large_tiff(image):
        return Target(image, mask, paths(mask, formats))
    if list(formats) != ["png"]:
        raise UsageError(f"{show(image)} is too large for any --format but its mask, a TIFF")
    mask = mask.with_suffix(".tif")
    return Target(image, mask, {"tif": mask}, is_large=True)


def _owners(targets: Sequence[Target]) -> dict[Path, str]:
    """Return the output files and what each is, in words; UsageError if two are the same."""
    owners: dict[Path, str] = {}
    for target in targets:
        for name, path in target.files.items():
            owner = f"{show(target.image)} as {name}"
            if path in owners:
                raise UsageError(
                    f"{owners[path]} and {owner} would both be written to {show(path)}; "
                    "rename a picture or run them apart"
                )
            owners[path] = owner
    return owners


def _is_whole(path: Path) -> bool:
    if path.suffix != ".png":
        return path.is_file() and path.stat().st_size > 0
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # reads all of the file, compares its checksums, decodes nothing
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False
    return True
