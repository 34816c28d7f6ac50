"""Presets: three networks with the training that goes with them."""

from __future__ import annotations

from edgeseg.errors import UsageError, show
from edgeseg_train.recipe.config import Augmentation, Recipe, TrainingConfig

PRESETS = {
    # The reference network and its optimiser.
    "seed": Recipe(
        features=(64, 128, 256, 512),
        norm="first",
        activation="gelu",
        upsample="transpose",
        size=(512, 512),
        training=TrainingConfig(epochs=50, batch_size=16, lr=1e-4, schedule="constant"),
    ),
    # Half the channels, so a quarter of the multiplications; all of it has INT8 kernels.
    "edge": Recipe(
        features=(32, 64, 128, 256),
        norm="both",
        activation="relu",
        upsample="pixelshuffle",
        size=(256, 256),
        training=TrainingConfig(epochs=50, batch_size=16, lr=2e-3, schedule="onecycle"),
    ),
    # Trains in about a minute on two CPU cores: for the demo and for trying things out.
    "tiny": Recipe(
        features=(16, 32, 64),
        norm="both",
        activation="relu",
        upsample="pixelshuffle",
        size=(96, 96),
        training=TrainingConfig(
            epochs=6,
            batch_size=4,
            lr=6e-3,
            schedule="onecycle",
            augmentation=Augmentation(scale=(1.0, 1.3)),  # too few epochs to learn from more
        ),
    ),
}


def preset(name: str) -> Recipe:
    """Return a preset by name.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {show(name)}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
