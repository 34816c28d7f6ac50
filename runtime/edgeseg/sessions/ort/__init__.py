"""ONNX Runtime's execution providers as backends, strictly: what was asked for runs, or an error.

session = open_session(bundle, "ort:cpu", "int8-cpu", Settings())

``library`` imports ONNX Runtime and knows what each backend needs, ``plugins`` registers providers
that come as packages of their own, ``options`` is how sessions are tuned, ``creation`` makes one
and checks its ``placement``, ``engines`` is where TensorRT may keep what it builds, ``device``
keeps inputs and outputs on the GPU, ``session`` puts them together.
"""

from __future__ import annotations

from edgeseg.bundle import Bundle
from edgeseg.sessions.ort.creation import create_session
from edgeseg.sessions.ort.library import PROVIDERS, problem
from edgeseg.sessions.ort.session import OrtSession
from edgeseg.sessions.protocol import Session, Settings

__all__ = ["PROVIDERS", "create_session", "open_session", "problem", "unready"]


def unready(bundle: Bundle, backend: str, variant: str) -> str | None:
    """Return None: ONNX Runtime needs nothing but the ONNX file."""
    return None


def open_session(bundle: Bundle, backend: str, variant: str, settings: Settings) -> Session:
    """Open a session; errors as ``OrtSession``."""
    return OrtSession(bundle, backend, variant, settings)
