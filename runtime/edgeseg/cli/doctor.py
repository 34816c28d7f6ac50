"""``edgeseg doctor``: what is installed, which backends work, what to do."""

from __future__ import annotations

import typer

from edgeseg.cli.output import command_app, table
from edgeseg.doctor import diagnose


def main(ctx: typer.Context) -> None:
    """Show what is installed, which backends work here, and how to get the others."""
    found = diagnose()
    facts = [
        ("edgeseg", found.edgeseg),
        ("python", found.python),
        ("machine", f"{found.machine}, {found.cpu_threads} usable CPU threads"),
    ]
    packages = [(name, version or "-") for name, version in found.packages.items()]
    backends = [(name, problem or "works") for name, problem in found.backends.items()]
    builders = [(name, problem or "works") for name, problem in found.builders.items()]
    warnings = [f"warning: {text}" for text in found.warnings]
    ctx.obj.result(
        found.to_dict(),
        [
            table(("", ""), facts),
            "",
            table(("package", "version"), packages),
            "",
            table(("backend", "state"), backends),
            "",
            table(("engine builder", "state"), builders),
            *warnings,
        ],
    )


app = command_app(main)
