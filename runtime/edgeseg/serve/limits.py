"""What a server takes on before it refuses: the options of ``edgeseg serve``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much, how many and how long.

    Attributes:
        max_bytes: the largest body of a request; 413 above.
        max_pixels: the largest picture, checked before it is decoded; 413 above.
        queue: the most requests that are accepted and not answered yet; 503 above.
        batch: the most images per call of the network.
        wait_ms: how long a request may wait for others to fill its batch.
        timeout_s: for a body to arrive (408), and for an accepted request's answer (503).
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 25_000_000
    queue: int = 64
    batch: int = 1
    wait_ms: float = 2.0
    timeout_s: float = 30.0
