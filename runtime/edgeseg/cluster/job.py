"""Run a bundle over a folder or an address with Ray Data, and write the index of what came out.

result = run_job(bundle, choice, source, out, JobOptions(workers=2))

The masks are those of the plain run, byte for byte. ``index.parquet`` beside them has a row per
picture: names, size, coverage and timings as JSON, or the error.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeseg import errors
from edgeseg.bundle import Bundle
from edgeseg.cluster.places import Place
from edgeseg.cluster.plan import INDEX, Item
from edgeseg.cluster.worker import Row, Task, Worker, bundle_files
from edgeseg.cpu import cpu_threads
from edgeseg.errors import DeviceError, EdgeSegError, first_line, needs_extra
from edgeseg.sessions import Choice


@dataclass(frozen=True)
class JobOptions:
    """How the work is spread.

    Attributes:
        address: of a running cluster; None starts one on this machine, and stops it afterwards.
        workers: processes, each with a session of its own.
        cpus: per worker; the session uses as many threads.
        gpus: per worker; a fraction lets workers share one.
        batch: pictures per call of the network.
        load: options of ``Segmenter.load``.
    """

    address: str | None = None
    workers: int = 1
    cpus: int = 1
    gpus: float = 0
    batch: int = 1
    load: Mapping[str, Any] = field(default_factory=dict)


def run_job(
    bundle: Bundle,
    choice: Choice,
    items: Sequence[Item],
    places: tuple[Place, Place],
    options: JobOptions,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Row]:
    """Segment the items; return a row for each, in their order.

    Raises:
        DeviceError: Ray is not installed or no cluster can be reached, or a session failed.
        ArtifactError, ResourceError: a worker could not load the bundle or write a mask.
    """
    source, out = places
    load = {"batch": options.batch, "threads": options.cpus, **options.load}
    task = Task(bundle_files(bundle), choice.backend, choice.variant, load, source, out)
    rows: dict[str, Row] = {}
    with _cluster(options) as ray:
        for row in _stream(ray, task, items, options):
            if row["fatal"]:
                raise _fatal(row["fatal"])
            rows[row["image"]] = row
            advance(1)
    ordered = [rows[item.image] for item in items]
    out.write(INDEX, index_bytes(bundle, choice, ordered))
    return ordered


def index_bytes(bundle: Bundle, choice: Choice, rows: Sequence[Row]) -> bytes:
    """Return the Parquet file; its metadata says which weights answered, and where."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    told = {
        "edgeseg_backend": choice.backend,
        "edgeseg_variant": choice.variant,
        "edgeseg_weights_sha256": bundle.manifest.model.weights_sha256,
    }
    text, number = pa.string(), pa.int64()
    kinds = {"height": number, "width": number}
    names = ("image", "mask", "height", "width", "coverage", "timings_ms", "error")
    schema = pa.schema([(name, kinds.get(name, text)) for name in names], metadata=told)
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([{n: row[n] for n in names} for row in rows], schema), buffer
    )
    return buffer.getvalue()


@contextmanager
def _cluster(options: JobOptions) -> Iterator[Any]:
    """Give Ray, connected; what is started here is stopped here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with needs_extra("ray"):
        import ray
        import ray.data
    started = not ray.is_initialized()
    if started:
        arguments: dict[str, Any] = {"address": options.address}
        if options.address is None:
            cores = max(cpu_threads(), options.workers * options.cpus)
            arguments = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **arguments)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise DeviceError(f"no Ray cluster can be reached: {first_line(error)}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _stream(ray: Any, task: Task, items: Sequence[Item], options: JobOptions) -> Iterator[Row]:
    blocks = max(options.workers, min(len(items) // max(1, options.batch), 4 * options.workers))
    rows = [asdict(item) for item in items]
    data = ray.data.from_items(rows, override_num_blocks=max(1, min(blocks, len(items))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of ray_remote_args_fn, from 2.60 on
        answered = data.map_batches(
            Worker,
            fn_constructor_args=(task,),
            batch_size=options.batch,
            num_cpus=options.cpus,
            num_gpus=options.gpus or None,
            compute=ray.data.ActorPoolStrategy(size=options.workers),
            **_without_restarts(data.map_batches),
        )
    try:
        yield from answered.iter_rows()
    except ray.exceptions.RayError as error:
        raise DeviceError(f"the Ray cluster failed: {first_line(error)}") from error


def _without_restarts(map_batches: Callable[..., Any]) -> dict[str, Any]:
    """Return the argument that ends a run when a worker dies, where this Ray still has it.

    A session that killed its process would kill the next one, too.
    """
    name = "ray_remote_args_fn"
    known = name in inspect.signature(map_batches).parameters
    return {name: lambda: {"max_restarts": 0}} if known else {}


def _fatal(text: str) -> EdgeSegError:
    """Return a worker's error as it was raised there."""
    told = json.loads(text)
    kind = getattr(errors, told["type"], DeviceError)
    found: EdgeSegError = kind(told["message"])
    return found
