"""Which layers does quantisation hurt? Each one is quantised alone and compared with PyTorch.

The result goes into the bundle as ``sensitivity.VARIANT.json`` and ``.png``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection

from pydantic import BaseModel, ConfigDict, Field

from edgeseg.manifest import Share
from edgeseg_export.parity.evaluation import Evaluation, mean_iou
from edgeseg_export.parity.measure import Judged, compare_with_torch

PREFIX = "sensitivity."  # of its files in the bundle
IMAGES = 16  # a ranking needs fewer images than a gate


class LayerSensitivity(BaseModel):
    """What quantising one layer alone costs.

    Attributes:
        layer: its name in PyTorch.
        changed: share of pixels with another class than PyTorch's.
        miou_drop: PyTorch's mIoU minus the variant's; noisy for single layers.
        in_float: whether the shipped variant leaves it in floating point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    changed: Share
    miou_drop: float
    in_float: bool = False


class Sensitivity(BaseModel):
    """The layers of a variant, the most sensitive first.

    ``unquantised`` is the share of pixels that changes with every layer in floating point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    images: int = Field(ge=1)
    unquantised: Share
    layers: tuple[LayerSensitivity, ...]

    def with_float(self, float_layers: Collection[str]) -> Sensitivity:
        """Return a copy that says which layers were left in floating point."""
        layers = tuple(
            entry.model_copy(update={"in_float": entry.layer in float_layers})
            for entry in self.layers
        )
        return self.model_copy(update={"layers": layers})


def measure_sensitivity(
    variant: str,
    layers: Collection[str],
    judge: Callable[[Collection[str]], Judged],
    evaluation: Evaluation,
    tell: Callable[[str], None],
) -> Sensitivity:
    """Quantise one layer at a time and rank the layers by the pixels that change.

    Args:
        variant: its name.
        layers: those that the recipe quantises.
        judge: loads the variant with the given layers in floating point.
        evaluation: real images; the first ``IMAGES`` are used.
        tell: called with a line about each layer.
    """
    few = evaluation.first(IMAGES)
    torch_miou = float(mean_iou(few.counts.sum(0)))
    unquantised, _ = compare_with_torch(few, judge(layers))
    found = []
    for number, layer in enumerate(layers, 1):
        changed, miou = compare_with_torch(few, judge(set(layers) - {layer}))
        found.append(LayerSensitivity(layer=layer, changed=changed, miou_drop=torch_miou - miou))
        tell(f"sensitivity {number}/{len(layers)}: {layer} alone changes {changed:.3%} of pixels")
    found.sort(key=lambda entry: entry.changed, reverse=True)
    return Sensitivity(
        variant=variant,
        images=len(few.truths),
        unquantised=unquantised,
        layers=tuple(found),
    )


def picture(sensitivity: Sensitivity) -> bytes:
    """Return a PNG: a bar per layer, most sensitive on top, those left in float hatched."""
    from matplotlib.figure import Figure

    entries = sensitivity.layers[::-1]
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(entries)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(
        [entry.layer for entry in entries],
        [100 * entry.changed for entry in entries],
        color=["#d95f02" if entry.in_float else "#1b6ca8" for entry in entries],
    )
    for bar, entry in zip(bars, entries, strict=True):
        bar.set_hatch("//" if entry.in_float else "")
    axes.axvline(100 * sensitivity.unquantised, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel(
        f"% of pixels that change class when only this layer is quantised "
        f"({sensitivity.images} images)\ndashed: nothing quantised; hatched: left in float"
    )
    axes.set_title(f"{sensitivity.variant}: sensitivity of its layers")
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": ""})
    return buffer.getvalue()
