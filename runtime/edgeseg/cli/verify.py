"""``edgeseg verify BUNDLE``: replay PyTorch's answers here, without torch."""

from __future__ import annotations

import typer

from edgeseg.bundle import Bundle
from edgeseg.cli.options import BackendOption, BundleArgument, VariantOption
from edgeseg.cli.output import command_app
from edgeseg.sessions import AUTO, open_session, variants_for
from edgeseg.verify import verify


def main(
    ctx: typer.Context,
    bundle: BundleArgument,
    backend: BackendOption = AUTO,
    variant: VariantOption = None,
) -> None:
    """Check every file's hash and replay the reference images on this machine.

    Exit 5 when a variant agrees with PyTorch on fewer pixels than its gate.
    """
    opened = Bundle.open(bundle)
    names = [variant] if variant else variants_for(opened, backend)
    outcomes = []
    for name in names:
        session = open_session(opened, backend, name)
        outcomes.append(verify(opened, session))
        session.close()
    document = {"bundle": str(bundle), "variants": [o.to_dict() for o in outcomes], "passed": True}
    lines = [
        f"PASSED {o.variant} on {o.backend}: {o.agreement:.4%} of pixels as PyTorch "
        f"(gate {o.min_agreement:.2%}, {o.images} images, "
        f"widest flipped margin {o.max_flip_margin:.3f})"
        for o in outcomes
    ]
    ctx.obj.result(document, lines)


app = command_app(main)
