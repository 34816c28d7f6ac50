"""Arguments that several commands take: the bundle, and what runs it how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.sessions import AUTO, BACKENDS

BundleArgument = Annotated[Path, typer.Argument(help="Folder that 'edgeseg export' wrote.")]
BackendOption = Annotated[str, typer.Option(help=f"{AUTO}, {', '.join(BACKENDS)}.")]
VariantOption = Annotated[
    str | None, typer.Option(help="Variant of the model; default: the best for the backend.")
]
SizeOption = Annotated[
    str | None, typer.Option(help="HxW to run pictures at, for bundles with several sizes.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads of the network; default: all.")
]
FallbackOption = Annotated[
    bool, typer.Option("--allow-fallback", help="Run on the CPU what the backend cannot.")
]
