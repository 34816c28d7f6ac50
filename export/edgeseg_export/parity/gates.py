"""What a variant must reach to be shipped, per precision."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.manifest import Precision


@dataclass(frozen=True)
class Gates:
    """Limits, all 0..1.

    Attributes:
        min_agreement: share of pixels with PyTorch's class, at least.
        max_miou_drop: loss of mIoU, at most.
        max_wide_flips: share of pixels that change class although PyTorch was sure, at most.
    """

    min_agreement: float
    max_miou_drop: float
    max_wide_flips: float


DEFAULT_GATES: dict[Precision, Gates] = {
    "fp32": Gates(min_agreement=0.999, max_miou_drop=0.001, max_wide_flips=0.0001),
    "fp16": Gates(min_agreement=0.998, max_miou_drop=0.002, max_wide_flips=0.0005),
    "bf16": Gates(min_agreement=0.98, max_miou_drop=0.005, max_wide_flips=0.005),
    "int8": Gates(min_agreement=0.95, max_miou_drop=0.02, max_wide_flips=0.01),
    "fp8": Gates(min_agreement=0.95, max_miou_drop=0.02, max_wide_flips=0.01),
}


def gates_for(
    precision: Precision,
    min_agreement: float | None = None,
    max_miou_drop: float | None = None,
    max_wide_flips: float | None = None,
) -> Gates:
    """Return the default gates of a precision with the given ones in their place.

    fp32 is the same arithmetic in another runtime, so nothing excuses a loss: its gates can be
    tightened, not loosened.
    """
    default = DEFAULT_GATES[precision]
    agreement = default.min_agreement if min_agreement is None else min_agreement
    drop = default.max_miou_drop if max_miou_drop is None else max_miou_drop
    wide = default.max_wide_flips if max_wide_flips is None else max_wide_flips
    if precision == "fp32":
        agreement = max(agreement, default.min_agreement)
        drop, wide = min(drop, default.max_miou_drop), min(wide, default.max_wide_flips)
    return Gates(agreement, drop, wide)
