"""Augmentation: image and mask together, masks nearest, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg_train.recipe.config import Augmentation
from edgeseg_train.samples.augment import MEAN_COLOR, Augment

SIZE = (24, 40)
STILL = {"scale": (1.0, 1.0), "flip": False, "jitter": 0.0, "blur": 0.0}


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a picture whose right half is bright, with a mask that says so."""
    mask = torch.zeros(SIZE, dtype=torch.uint8)
    mask[:, SIZE[1] // 2 :] = 1
    return mask[:, :, None].expand(-1, -1, 3) * 250, mask


def augment(seed: int, image: torch.Tensor, mask: torch.Tensor, **values: object) -> tuple:
    return Augment(Augmentation.model_validate({**STILL, **values}), SIZE)(image, mask, seed)


def test_without_any_change_a_sample_stays_what_it_is() -> None:
    image, mask = halves()
    changed, changed_mask = augment(0, image, mask)
    torch.testing.assert_close(changed, image)
    torch.testing.assert_close(changed_mask, mask)


def test_picture_and_mask_move_together() -> None:
    image, mask = halves()
    sides = set()
    for seed in range(30):
        changed, changed_mask = augment(seed, image, mask, scale=(0.5, 2.0), flip=True)
        assert changed.shape == image.shape
        assert changed.dtype == changed_mask.dtype == torch.uint8
        known = changed_mask != 255
        bright = changed.float().mean(dim=2) > 124
        assert (bright == (changed_mask == 1))[known].float().mean() > 0.9
        sides.add(int(changed_mask[SIZE[0] // 2, 1]))
    assert {0, 1} <= sides  # flipped both ways


def test_a_shrunken_picture_is_padded_with_what_normalises_to_zero_and_ignored() -> None:
    image, mask = halves()
    changed, changed_mask = augment(1, image, mask, scale=(0.5, 0.5))
    outside = changed_mask == 255
    assert outside.float().mean() == pytest.approx(0.75, abs=0.05)
    assert (changed[outside] == torch.tensor(MEAN_COLOR, dtype=torch.uint8)).all()


def test_masks_keep_their_ids_and_pictures_are_smoothed() -> None:
    generator = np.random.default_rng(0)
    mask = torch.tensor(generator.choice([3, 90, 149, 255], SIZE).astype(np.uint8))
    image = torch.tensor(generator.integers(0, 2, (*SIZE, 3)).astype(np.uint8)) * 255
    for seed in range(10):
        changed, changed_mask = augment(seed, image, mask, scale=(0.5, 2.0), jitter=0.3, blur=1.0)
        assert set(changed_mask.unique().tolist()) <= {3, 90, 149, 255}
        assert len(changed.unique()) > 20


def test_colours_and_blur_leave_the_mask_alone() -> None:
    image, mask = halves()
    changed, changed_mask = augment(2, image, mask, jitter=0.5, blur=1.0)
    torch.testing.assert_close(changed_mask, mask)
    assert (changed != image).any()


def test_the_same_seed_gives_the_same_sample_and_leaves_the_random_state_alone() -> None:
    image, mask = halves()
    before = torch.random.get_rng_state()
    everything = {"scale": (0.5, 2.0), "flip": True, "jitter": 0.3, "blur": 0.5}
    first, again = (augment(7, image, mask, **everything) for _ in range(2))
    other = augment(8, image, mask, **everything)
    torch.testing.assert_close(first, again)
    assert (first[0] != other[0]).any()
    torch.testing.assert_close(torch.random.get_rng_state(), before)
