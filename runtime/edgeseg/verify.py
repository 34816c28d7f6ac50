"""Replay the bundle's reference on this machine: does the model still answer as PyTorch did?

Needs no torch: the inputs and PyTorch's class maps are in the bundle.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.errors import GateFailed
from edgeseg.metrics import agreement
from edgeseg.sessions import Session


@dataclass(frozen=True)
class Verification:
    """Outcome of a replay.

    Attributes:
        backend, variant: what ran.
        images: number of reference images.
        agreement: share of pixels with PyTorch's class, 0..1.
        min_agreement: the gate, from the bundle.
        max_flip_margin: PyTorch's largest top-1/top-2 logit margin among the changed pixels.
    """

    backend: str
    variant: str
    images: int
    agreement: float
    min_agreement: float
    max_flip_margin: float

    @property
    def passed(self) -> bool:
        """Whether the agreement reaches the gate."""
        return self.agreement >= self.min_agreement

    def to_dict(self) -> dict[str, Any]:
        """Return all values, with the verdict, for JSON."""
        return {**asdict(self), "passed": self.passed}


def verify(bundle: Bundle, session: Session) -> Verification:
    """Run the reference inputs through a session and compare; hashes every file first.

    Raises:
        ArtifactError: a file of the bundle is corrupt.
        GateFailed: the agreement is below the bundle's gate for this variant.
    """
    bundle.check_files()
    reference = bundle.reference()
    found = np.concatenate([session.infer(image[np.newaxis]) for image in reference.images])
    share, margin = compare(found, reference.class_maps, reference.margins)
    gate = bundle.variant(session.variant).parity.min_agreement
    outcome = Verification(session.backend, session.variant, len(found), share, gate, margin)
    if not outcome.passed:
        raise GateFailed(
            f"{session.variant} on {session.backend} agrees with PyTorch on {share:.4%} of "
            f"pixels; the bundle requires {gate:.2%} (widest flipped margin {margin:.3f})"
        )
    return outcome


def compare(
    found: NDArray[np.uint8], reference: NDArray[np.uint8], margins: NDArray[np.float16]
) -> tuple[float, float]:
    """Compare class maps (N, H, W): return the agreement 0..1 and the widest flipped margin."""
    flipped = found != reference
    widest = float(margins[flipped].max(initial=0)) if flipped.any() else 0.0
    return agreement(found, reference), widest
