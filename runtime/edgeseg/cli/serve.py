"""``edgeseg serve BUNDLE --port 8000``: answer pictures and tensors over HTTP."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.options import (
    BackendOption,
    BundleArgument,
    FallbackOption,
    SizeOption,
    ThreadsOption,
    VariantOption,
)
from edgeseg.cli.output import Output, command_app
from edgeseg.errors import needs_extra
from edgeseg.preprocess import parse_size
from edgeseg.segmenter import Segmenter
from edgeseg.serve.limits import Limits
from edgeseg.sessions import AUTO, choose
from edgeseg.streams.stopping import ending_on_interrupt


def main(
    ctx: typer.Context,
    bundle: BundleArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; default: the folder's.")
    ] = None,
    backend: BackendOption = AUTO,
    variant: VariantOption = None,
    size: SizeOption = None,
    threads: ThreadsOption = None,
    allow_fallback: FallbackOption = False,
    batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Most images per network call.")
    ] = Limits.batch,
    wait_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="How long a request waits to fill a batch.")
    ] = Limits.wait_ms,
    queue: Annotated[
        int, typer.Option(min=1, help="Most requests accepted and not answered; more get 503.")
    ] = Limits.queue,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="Largest request; larger ones get 413.")
    ] = Limits.max_bytes,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Largest picture; larger ones get 413.")
    ] = Limits.max_pixels,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a body to arrive, and for its answer.")
    ] = Limits.timeout_s,
) -> int:
    """Serve a bundle over HTTP: KServe v2, POST /segment, GET /metrics, and a web page.

    There is no login and no encryption: whoever reaches the port may use it. Ctrl-C or SIGTERM
    ends it: what was accepted is answered first.
    """
    with needs_extra("serve"):
        from edgeseg.serve.server import listener, serve, url_of
        from edgeseg.serve.service import Service

    opened = Bundle.open(bundle)
    choice = choose(opened, backend, variant)
    output: Output = ctx.obj
    output.note(f"{choice.variant} on {choice.backend} ({choice.why})")
    wanted = parse_size(size) if size else None
    limits = Limits(max_bytes, max_pixels, queue, batch, wait_ms, timeout)
    with listener(host, port) as door, ending_on_interrupt() as stop:
        segmenter = Segmenter.load(
            opened,
            choice.backend,
            choice.variant,
            wanted,
            batch=batch,
            threads=threads,
            allow_fallback=allow_fallback,
        )
        segmenter(np.zeros((*segmenter.preprocessing.size, 3), np.uint8))  # the first call is slow
        service = Service(name or bundle.resolve().name, opened, segmenter, limits)
        door.listen()
        document = {
            "url": url_of(door),
            "model": service.name,
            "backend": choice.backend,
            "variant": choice.variant,
            "fallback": segmenter.session.fallback,
        }
        output.result(
            document,
            f"serving {service.name} at {document['url']} ({choice.variant} on {choice.backend})",
        )
        serve(service, door, stop)
        service.close()
    return 0


app = command_app(main)
