"""Which picture becomes which mask, and what is refused before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from edgeseg.cluster.places import Place
from edgeseg.errors import UsageError, show
from edgeseg.manifest import MANIFEST

INDEX = "index.parquet"


@dataclass(frozen=True)
class Item:
    """A picture and its mask, both relative to their folders; ``kept`` masks are there already."""

    image: str
    mask: str
    kept: bool = False


def plan_items(source: Place, out: Place, *, force: bool, skip_existing: bool) -> list[Item]:
    """Return what is to be segmented.

    Raises:
        InputError: no pictures.
        UsageError: two pictures with one mask, masks over pictures or in a bundle, masks that are
            there already.
    """
    items = [Item(name, _mask_of(name)) for name in source.pictures()]
    there = set(out.files())
    if MANIFEST in there:
        raise UsageError(f"output {show(out.address)} is a bundle; masks would make it invalid")
    owners: dict[str, str] = {}
    for item in items:
        if item.mask in owners:
            raise UsageError(
                f"{show(owners[item.mask])} and {show(item.image)} would both be written to "
                f"{show(item.mask)}; rename one"
            )
        owners[item.mask] = item.image
    if (source.root, source.filesystem) == (out.root, out.filesystem):
        raise UsageError(f"masks and pictures would lie in one folder, {show(out.address)}")
    if skip_existing:
        return [replace(item, kept=item.mask in there) for item in items]
    done = [item.mask for item in items if item.mask in there] + [INDEX] * (INDEX in there)
    if done and not force:
        raise UsageError(
            f"output {show(out.named(done[0]))} exists already; add --force to overwrite, "
            "or --skip-existing to go on from there"
        )
    return items


def _mask_of(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".png"))
