"""Training losses for segmentation, and weights for classes that are rare.

Cross-entropy treats pixels alike, so large classes rule; Dice and Lovász-softmax treat classes
alike, as mean IoU does. Pixels with id 255 never count. Everything is computed in float32 (in
float64 for float64 logits), whatever the network computes in.

Sources: soft Dice, Milletari et al., V-Net, arXiv:1606.04797; Lovász-softmax, Berman et al.,
arXiv:1705.08790; hard-example mining, Shrivastava et al., arXiv:1604.03540; distillation, Hinton
et al., arXiv:1503.02531; median frequency, Eigen & Fergus, arXiv:1411.4734; inverse log, Paszke
et al., ENet, arXiv:1606.02147.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.labels import IGNORE_INDEX

LossName = Literal["ce", "dice", "lovasz"]

CPU_VECTOR = 16  # float32 values in an AVX-512 register


def _unchanged(value: Tensor) -> Tensor:
    """Return the mean over the only device there is."""
    return value


class SegmentationLoss(nn.Module):
    """Sum of loss terms, each 0 with zero gradients when no pixel is labelled.

    * ``ce``: cross-entropy, averaged over labelled pixels with the weights of their classes, as
      ``torch.nn.functional.cross_entropy`` does.
    * ``dice``: 1 - the mean of the soft Dice coefficients of the classes in the batch's truth.
    * ``lovasz``: the mean of the Lovász extensions of 1 - IoU of the classes in the batch's truth.

    Class weights, smoothing and ``hardest`` concern ``ce`` alone. ``dice`` and ``lovasz`` see the
    batch of their own device: they are no sums over pixels, so devices cannot share them.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        terms: Sequence[LossName],
        *,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        hardest: float = 1.0,
    ) -> None:
        """Choose the terms.

        Args:
            terms: one or more names, each once.
            class_weights: float (C,), 0 or more; only their ratios matter.
            label_smoothing: 0 .. 1, the share of the target spread over all classes.
            hardest: the share, above 0 and at most 1, of a device's labelled pixels that count:
                those with the highest weighted loss.
        """
        super().__init__()
        if not terms or not 0 < hardest <= 1:
            raise ValueError(f"needs a term and 0 < hardest <= 1, not {terms} and {hardest}")
        self.terms = tuple(terms)
        self.label_smoothing = label_smoothing
        self.hardest = hardest
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        logits_nchw: Tensor,
        masks: Tensor,
        mean_over_devices: Callable[[Tensor], Tensor] = _unchanged,
    ) -> Tensor:
        """Return the loss, a scalar, 0 or more.

        Args:
            logits_nchw: float (N, C, H, W), fastest in channels_last.
            masks: int64 (N, H, W), ids 0 .. C-1 or 255.
            mean_over_devices: all-reduces a scalar to its mean. It is called once per ``ce``,
                on every device, and then the devices' losses average to that of all pixels.
        """
        logits, masks = _arranged(logits_nchw, masks)
        loss = logits.new_zeros(())
        if "ce" in self.terms:
            loss = loss + self._cross_entropy(logits, masks, mean_over_devices)
        if "dice" in self.terms or "lovasz" in self.terms:
            probabilities = logits.softmax(1)
            if "dice" in self.terms:
                loss = loss + _dice(probabilities, masks)
            if "lovasz" in self.terms:
                loss = loss + _lovasz(probabilities, masks)
        return loss

    def _cross_entropy(
        self, logits: Tensor, masks: Tensor, mean_over_devices: Callable[[Tensor], Tensor]
    ) -> Tensor:
        labelled = masks != IGNORE_INDEX
        weights, per_class = labelled.to(logits.dtype), None
        if self.class_weights is not None:
            per_class = self.class_weights.to(logits.dtype)
            weights = weights * per_class[masks.masked_fill(~labelled, 0)]
        losses = F.cross_entropy(
            logits,
            masks,
            per_class,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        if self.hardest < 1:
            chosen = _highest(losses.detach(), labelled, self.hardest)
            losses, weights = losses.flatten()[chosen], weights.flatten()[chosen]
        return _ratio(losses.sum(), mean_over_devices(weights.sum()))


def distillation_loss(
    student_nchw: Tensor,
    teacher_nchw: Tensor,
    masks: Tensor,
    temperature: float,
    mean_over_devices: Callable[[Tensor], Tensor] = _unchanged,
) -> Tensor:
    """Return T^2 KL(teacher || student), averaged over labelled pixels: a scalar, 0 or more.

    T^2 keeps the gradients' size, so that the weight of this term need not follow T.

    Args:
        student_nchw: float (N, C, H, W) logits.
        teacher_nchw: as ``student_nchw``; gets no gradient.
        masks: int64 (N, H, W); only whether an id is 255 matters.
        temperature: T, above 0; both logits are divided by it.
        mean_over_devices: as in ``SegmentationLoss.forward``.
    """
    student, labels = _arranged(student_nchw, masks)
    teacher, _ = _arranged(teacher_nchw.detach(), masks)
    student, teacher = ((x / temperature).log_softmax(1) for x in (student, teacher))
    labelled = labels != IGNORE_INDEX
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    total = divergence.masked_fill(~labelled, 0).sum()
    return temperature**2 * _ratio(total, mean_over_devices(labelled.to(total.dtype).sum()))


def _arranged(logits_nchw: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (P, C) or (N, C, HW), float32 or float64, and masks without the C.

    On a CPU, softmax over adjacent values is two to three times faster, and in channels_last
    needs no copy; but fewer classes than fill a register go through slow scalar code, and
    then planes, where adjacent values are pixels, are three times faster.
    """
    logits = logits_nchw.to(torch.promote_types(logits_nchw.dtype, torch.float32))
    if logits.shape[1] < CPU_VECTOR:
        return logits.flatten(2).contiguous(), masks.flatten(1)
    return logits.permute(0, 2, 3, 1).flatten(0, 2), masks.flatten()


def _ratio(total: Tensor, denominator: Tensor) -> Tensor:
    """Divide; 0 with zero gradients where the denominator is 0."""
    return total / denominator.masked_fill(denominator == 0, torch.inf)


def _highest(losses: Tensor, labelled: Tensor, share: float) -> Tensor:
    """Return the flat indices of a share of the labelled pixels, at least one pixel."""
    count = max(1, round(share * int(labelled.sum())))
    # Losses are not negative: ignored pixels come last, and one of them weighs nothing.
    return losses.masked_fill(~labelled, -1).flatten().topk(count, sorted=False).indices


def _dice(probabilities: Tensor, masks: Tensor) -> Tensor:
    labelled = masks != IGNORE_INDEX
    truth = masks.masked_fill(~labelled, 0)
    hits = probabilities.gather(1, truth.unsqueeze(1)).squeeze(1) * labelled
    # In float64, because float32 cannot add 1 to 2**24 pixels.
    zeros = torch.zeros(probabilities.shape[1], dtype=torch.float64, device=masks.device)
    overlap = zeros.scatter_add(0, truth.flatten(), hits.flatten().double())
    pixels = zeros.scatter_add(0, truth.flatten(), labelled.flatten().double())
    found = (probabilities * labelled.unsqueeze(1)).transpose(0, 1).flatten(1).sum(1)
    coefficients = 2 * overlap / (pixels + found).clamp(min=1)  # below 1 only if not present
    present = pixels > 0
    loss = ((1 - coefficients) * present).sum() / present.sum().clamp(min=1)
    return loss.to(probabilities.dtype)


def _lovasz(probabilities: Tensor, masks: Tensor) -> Tensor:
    labelled = masks != IGNORE_INDEX
    columns = probabilities.unbind(1)
    losses = []
    pixels = torch.bincount(masks.flatten(), minlength=IGNORE_INDEX + 1)
    for class_id in pixels[: len(columns)].nonzero().flatten().tolist():
        truth = masks == class_id
        errors = (truth.to(probabilities.dtype) - columns[class_id]).abs()
        # An error of 0 adds nothing and leaves the others' slopes as they are.
        errors = errors.masked_fill(~labelled, 0).flatten()
        losses.append((errors * _jaccard_slopes(errors.detach(), truth.flatten())).sum())
    return torch.stack(losses).mean() if losses else (probabilities * 0).sum()


def _jaccard_slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """Return the gradient of the Lovász extension of the Jaccard loss, like ``errors``.

    Let M be a pixel with all pixels of larger error. The Jaccard loss when exactly M is wrong is
    1 - |T without M| / |T and M|, T being the class's true pixels; a pixel's slope is by how
    much the loss grows as it joins M. Written out, nothing cancels, unlike with differences.

    Args:
        errors: float32 or float64 (P,), 0 or more.
        truth: bool (P,), whether the pixel is of the class.
    """
    # Floats above 0 are ordered as their bits are, and CPUs sort integers six times faster.
    bits = errors.view(torch.int32 if errors.dtype == torch.float32 else torch.int64)
    order = bits.sort().indices
    joins = truth[order]
    outside = joins.cumsum(0) - joins.long()  # |T without M|, as M shrinks from all pixels to one
    inside = torch.arange(len(order), 0, -1, device=order.device)  # |M|
    outside, union = outside.to(errors.dtype), (outside + inside).to(errors.dtype)
    slopes = torch.where(joins, 1, outside / (union - 1)) / union
    return torch.empty_like(errors).scatter_(0, order, slopes)


def median_frequency_weights(
    pixels: NDArray[np.int64], pixels_of_images_with: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the median of the classes' frequencies divided by each frequency.

    A class's frequency is its share of the labelled pixels of the images that show it. A class
    that never occurs gets 0: nothing can be learnt about it, so label smoothing should not raise
    it, and if it turns up in validation it should not drown the loss of the others. The weights
    are not normalised, because only their ratios matter to ``SegmentationLoss``.

    Args:
        pixels: int64 (C,), pixels of each class in the training data.
        pixels_of_images_with: int64 (C,), labelled pixels of all images in which it occurs.

    Returns:
        float32 (C,), 0 or more.
    """
    present = pixels > 0
    weights = np.zeros(pixels.shape, np.float32)
    if present.any():
        frequencies = pixels[present] / pixels_of_images_with[present]
        weights[present] = np.median(frequencies) / frequencies
    return weights


def inverse_log_weights(pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return 1 / ln(1.02 + p) for each class's share p of all labelled pixels.

    Bounded, unlike the inverse of a frequency: from 1.42 at p = 1 to 50.5 near p = 0. A class
    that never occurs gets 0, and nothing is normalised, as in ``median_frequency_weights``.

    Args:
        pixels: int64 (C,), pixels of each class in the training data.

    Returns:
        float32 (C,), 0 or 1.42 .. 50.5.
    """
    shares = pixels / max(int(pixels.sum()), 1)
    return np.where(pixels > 0, 1 / np.log(1.02 + shares), 0).astype(np.float32)
