"""ONNX Runtime's execution providers as backends, strictly: ``ort:cpu``, ``ort:cuda`` ..."""

from __future__ import annotations

from edgeseg.bundle import Bundle
from edgeseg.sessions.ort.session import PROVIDERS, OrtSession, create_session, problem
from edgeseg.sessions.protocol import Session, Settings

__all__ = ["PROVIDERS", "create_session", "open_session", "problem", "unready"]


def unready(bundle: Bundle, backend: str, variant: str) -> str | None:
    """Return None: ONNX Runtime needs nothing but the ONNX file."""
    return None


def open_session(bundle: Bundle, backend: str, variant: str, settings: Settings) -> Session:
    """Open a session; errors as ``OrtSession``."""
    return OrtSession(bundle, backend, variant, settings)
