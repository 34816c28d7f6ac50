"""What of a graph runs where: read back from ONNX Runtime, never assumed.

ONNX Runtime takes the CPU for every node that a provider has no kernel for, and for some that it
finds cheaper there: on CUDA those that compute shapes. The graphs that ``edgeseg export`` writes
compute no shapes, so no node on the CPU is excused: a list of harmless operators would excuse the
Concat of two feature maps, too.

ONNX Runtime 1.23, the last for Python 3.10, does not tell. There a session is made with the CPU
forbidden: that proves the same, but its error names no nodes. With a fallback allowed nobody
knows then what fell back, and the session says so.
"""

from __future__ import annotations

from typing import Any

from edgeseg.errors import DeviceError, show
from edgeseg.sessions.ort.library import CPU
from edgeseg.sessions.ort.options import NO_CPU, RECORD

SHOWN = 5  # nodes that a message names


def watch(onnxruntime: Any, options: Any, *, allow_fallback: bool) -> None:
    """Make a session tell its placement; where it cannot, forbid the CPU unless that is allowed."""
    if hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        options.add_session_config_entry(RECORD, "1")
    elif not allow_fallback:
        options.add_session_config_entry(NO_CPU, "1")


def fallback_of(session: Any, provider: str) -> str | None:
    """Return in words what may run elsewhere in a session that was allowed a fallback, or None."""
    if not _tells(session):
        return (
            f"perhaps some nodes run on {CPU}: this onnxruntime does not tell; take 1.28 or newer"
        )
    return _elsewhere(session, provider)


def _tells(session: Any) -> bool:
    return hasattr(session, "get_provider_graph_assignment_info")


def _elsewhere(session: Any, provider: str) -> str | None:
    if session.get_providers()[0] != provider:
        return f"onnxruntime fell back to {session.get_providers()[0]}"
    if provider == CPU or not _tells(session):
        return None
    parts = session.get_provider_graph_assignment_info()
    total = sum(len(part.get_nodes()) for part in parts)
    fallen = [
        (part.ep_name, n) for part in parts if part.ep_name != provider for n in part.get_nodes()
    ]
    if not fallen:
        return None if total else f"{provider} runs none of it"
    names = ", ".join(f"{node.op_type} {show(node.name, 60)}" for _, node in fallen[:SHOWN])
    more = f" and {len(fallen) - SHOWN} more" if len(fallen) > SHOWN else ""
    where = " and ".join(sorted({name for name, _ in fallen}))
    return f"{len(fallen)} of {total} nodes run on {where}: {names}{more}"


def check_placement(session: Any, provider: str, name: str) -> None:
    """Check that the whole graph runs on ``provider``.

    Raises:
        DeviceError: it does not; the message names nodes.
    """
    if found := _elsewhere(session, provider):
        raise DeviceError(
            f"asked for {provider} for {show(name)}, but {found}; use another variant or backend, "
            "or let them run there with --allow-fallback"
        )
