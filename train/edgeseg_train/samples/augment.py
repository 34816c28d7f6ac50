"""Random changes of a training image and its mask, together, with torchvision's transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import query_size

from edgeseg.labels import IGNORE_INDEX
from edgeseg.preprocess import IMAGENET_MEAN
from edgeseg_train.recipe.config import Augmentation

# Becomes zero after normalisation: what the network's own padding is.
MEAN_COLOR = tuple(round(255 * value) for value in IMAGENET_MEAN)


class RandomScale(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Resize by a random factor; images bilinear and antialiased, masks nearest.

    ``ScaleJitter`` confuses height and width of its target, and so scales what is not square
    by another factor.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the new size (height, width)."""
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        return {"size": [max(1, round(side * factor)) for side in query_size(flat_inputs)]}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        """Resize an image or, always with nearest, a mask."""
        return v2.functional.resize(value, params["size"], antialias=True)


class RandomPad(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Pad what is smaller than ``size`` to it, at a random place; the outside is ignored.

    ``RandomCrop``'s own padding is twice as wide, and then cuts most of the picture away.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the padding (left, top, right, bottom) in pixels."""
        height, width = query_size(flat_inputs)
        missing = (max(0, self.size[1] - width), max(0, self.size[0] - height))
        before = [int(torch.randint(0, m + 1, ())) for m in missing]
        after = [m - b for m, b in zip(missing, before, strict=True)]
        return {"padding": [*before, *after]}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        """Pad an image with the mean colour, or a mask with 255."""
        fill = IGNORE_INDEX if isinstance(value, tv_tensors.Mask) else list(MEAN_COLOR)
        return v2.functional.pad(value, params["padding"], fill=fill)


class Augment:
    """Scale, crop, flip, colours and blur; the result depends on nothing but the seed."""

    def __init__(self, config: Augmentation, size: tuple[int, int]) -> None:
        """Make the transforms for images of ``size`` (height, width)."""
        steps: list[torch.nn.Module] = []
        if config.scale != (1.0, 1.0):
            steps.append(RandomScale(config.scale))
            steps.append(RandomPad(size))
            steps.append(v2.RandomCrop(size))
        if config.flip:
            steps.append(v2.RandomHorizontalFlip())
        if config.jitter:
            steps.append(v2.ColorJitter(config.jitter, config.jitter, config.jitter))
        if config.blur:
            steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], config.blur))
        self._transform = v2.Compose(steps or [v2.Identity()])

    def __call__(self, image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return image uint8 (H, W, 3) and mask uint8 (H, W), changed as ``seed`` says.

        The global random state stays as it was, so that a sample is the same whichever worker
        makes it and whatever was made before.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed, changed_mask = self._transform(
                tv_tensors.Image(image.permute(2, 0, 1)), tv_tensors.Mask(mask)
            )
        return changed.as_subclass(Tensor).permute(1, 2, 0), changed_mask.as_subclass(Tensor)
