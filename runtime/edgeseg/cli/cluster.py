"""``edgeseg run --ray``: the same masks, from many processes or machines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from edgeseg.cli.loading import Model
from edgeseg.cli.output import Output
from edgeseg.cluster.job import JobOptions, run_job
from edgeseg.cluster.places import Place
from edgeseg.cluster.plan import INDEX, plan_items
from edgeseg.errors import InputError, UsageError


def run_cluster(
    model: Model,
    sources: Sequence[str],
    out: str,
    options: JobOptions,
    output: Output,
    *,
    force: bool,
    skip_existing: bool,
) -> int:
    """Segment a folder or an address with Ray; return the exit status.

    Raises:
        UsageError: more than one source, or see ``plan_items``.
        InputError: no pictures.
    """
    if len(sources) != 1:
        raise UsageError("--ray takes one folder or address of pictures")
    if force and skip_existing:
        raise UsageError("--force overwrites what --skip-existing keeps; give one of them")
    places = Place.of(sources[0]), Place.of(out)
    items = plan_items(*places, force=force, skip_existing=skip_existing)
    choice = model.choice
    output.note(
        f"{choice.variant} on {choice.backend} ({choice.why}), in {options.workers} workers"
    )
    start = time.perf_counter()
    with output.progress("segmenting", len(items)) as advance:
        rows = run_job(model.bundle, choice, items, places, options, advance)
    seconds = time.perf_counter() - start
    failed = [row["error"] for row in rows if row["error"]]
    kept = sum(item.kept for item in items)
    document: dict[str, Any] = {
        "backend": choice.backend,
        "variant": choice.variant,
        "out": out,
        "index": places[1].named(INDEX),
        "segmented": len(rows) - len(failed) - kept,
        "skipped": kept,
        "failed": len(failed),
        "seconds": round(seconds, 3),
    }
    done = len(rows) - len(failed)
    output.result(
        document,
        f"{done} of {len(rows)} images have masks after {seconds:.1f} s; "
        f"masks in {out}, index in {document['index']}",
    )
    for error in failed:
        output.error(error)
    return InputError.exit_code if failed else 0
