"""Backends: which exist, which work here, and opening one.

A session runs one variant of a bundle on one backend. A backend that was asked for
and is not there is an error that says how to get it, never a silent fallback.

``protocol`` says what a session is, ``registry`` lists the backends, ``choice`` picks one. Each
backend is a module or a package of its own, imported on first use.
"""

from __future__ import annotations

from edgeseg.bundle import Bundle
from edgeseg.sessions.choice import Choice, choose, variants_for
from edgeseg.sessions.protocol import Session, Settings
from edgeseg.sessions.registry import AUTO, BACKENDS, CPU_BACKENDS, check_backend, problem

__all__ = [
    "AUTO",
    "BACKENDS",
    "CPU_BACKENDS",
    "Choice",
    "Session",
    "Settings",
    "check_backend",
    "choose",
    "open_session",
    "problem",
    "variants_for",
]


def open_session(
    bundle: Bundle,
    backend: str = AUTO,
    variant: str | None = None,
    settings: Settings | None = None,
) -> Session:
    """Load a variant of a bundle on a backend.

    Raises:
        UsageError, ArtifactError: see ``choose``.
        ArtifactError: the model file is corrupt or the backend cannot load it.
        DeviceError: the backend does not work here.
    """
    choice = choose(bundle, backend, variant)
    module = BACKENDS[choice.backend].load()
    session: Session = module.open_session(
        bundle, choice.backend, choice.variant, settings or Settings()
    )
    return session
