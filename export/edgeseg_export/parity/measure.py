"""Compare a variant with PyTorch: agreement, mIoU with an interval, flips, logits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg.manifest import Interval, LogitDifference, Parity
from edgeseg.verify import compare
from edgeseg_export.parity.evaluation import Evaluation, image_counts, iou_per_class, mean_iou
from edgeseg_export.parity.flips import sort_flips
from edgeseg_export.parity.gates import Gates

RESAMPLES = 1000


class Judged(Protocol):
    """A variant that runs; ``name`` says on what."""

    name: str

    def class_maps(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3)."""

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (N, C, H, W) for images uint8 (N, H, W, 3)."""


def measure(evaluation: Evaluation, judged: Judged, gates: Gates) -> Parity:
    """Run a variant on the images of an evaluation and compare it with PyTorch and the truth."""
    reference = evaluation.reference
    found = _run(evaluation, judged)
    agreement, widest = compare(found, reference.class_maps, reference.margins)
    shipped = evaluation.shipped
    on_shipped, _ = compare(found[evaluation.shipped_indices], shipped.class_maps, shipped.margins)
    counts = _counts(evaluation, found)
    return Parity(
        images=len(found),
        measured_with=judged.name,
        agreement=agreement,
        reference_agreement=on_shipped,
        min_agreement=gates.min_agreement,
        max_flip_margin=widest,
        flips=sort_flips(found, reference.class_maps, reference.margins),
        max_wide_flips=gates.max_wide_flips,
        torch_miou=float(mean_iou(evaluation.counts.sum(0))),
        miou=float(mean_iou(counts.sum(0))),
        miou_interval=_interval(evaluation.counts, counts),
        class_iou_delta=_class_deltas(evaluation.counts, counts),
        max_miou_drop=gates.max_miou_drop,
        logits=_logit_difference(evaluation, judged),
    )


def compare_with_torch(evaluation: Evaluation, judged: Judged) -> tuple[float, float]:
    """Return the share of pixels with another class than PyTorch's, and the variant's mIoU."""
    found = _run(evaluation, judged)
    changed = float(np.mean(found != evaluation.reference.class_maps))
    return changed, float(mean_iou(_counts(evaluation, found).sum(0)))


def _run(evaluation: Evaluation, judged: Judged) -> NDArray[np.uint8]:
    images = evaluation.reference.images
    return np.concatenate([judged.class_maps(image[np.newaxis]) for image in images])


def _counts(evaluation: Evaluation, found: NDArray[np.uint8]) -> NDArray[np.int64]:
    return image_counts(found, evaluation.truths, evaluation.counts.shape[1], evaluation.fit)


def _interval(torch_counts: NDArray[np.int64], counts: NDArray[np.int64]) -> Interval | None:
    """Bootstrap the mIoU difference over images, paired: both sides draw the same images.

    Percentile method of Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    images = len(counts)
    if images < 2:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    weights = drawn.astype(np.float64)
    deltas = mean_iou(np.tensordot(weights, counts, 1)) - mean_iou(
        np.tensordot(weights, torch_counts, 1)
    )
    low, high = np.percentile(deltas, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))


def _class_deltas(
    torch_counts: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[float | None, ...]:
    deltas = iou_per_class(counts.sum(0)) - iou_per_class(torch_counts.sum(0))
    return tuple(None if np.isnan(delta) else float(delta) for delta in deltas)


def _logit_difference(evaluation: Evaluation, judged: Judged) -> LogitDifference:
    largest, total = 0.0, 0.0
    for image, expected in zip(evaluation.reference.images, evaluation.logits, strict=False):
        difference = np.abs(judged.logits(image[np.newaxis])[0] - expected)
        # Overflow to infinity is a difference beyond any gate, but JSON has no number for it.
        difference = np.nan_to_num(difference, nan=1e30, posinf=1e30)
        largest, total = max(largest, float(difference.max())), total + float(difference.mean())
    images = len(evaluation.logits)
    return LogitDifference(images=images, max=largest, mean=total / images)
