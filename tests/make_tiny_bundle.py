"""Rebuild the bundles of ``tests/data``, which let the runtime's tests run without torch.

    python tests/make_tiny_bundle.py

A U-Net with 8,000 parameters, trained for a few seconds on the synthetic scenes at 48x64:
``tiny_bundle`` answers class maps at that size, ``tiny_logits`` logits, too, at any size.
"""

import tempfile
from pathlib import Path

from edgeseg.preprocess import Preprocessing
from edgeseg_export.exporting import export
from edgeseg_export.options import Options
from edgeseg_train.data import open_source
from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.run.job import Job
from edgeseg_train.run.training import train
from edgeseg_train.unet import UNetConfig

DATA = Path(__file__).parent / "data"
# Hardly trained, so many pixels are near ties: these gates fit this network only.
GATES = {"min_agreement": 0.85, "max_miou_drop": 0.05, "max_wide_flips": 0.05}


def main() -> None:
    source = open_source("synthetic:64+16")
    job = Job(
        source,
        UNetConfig(features=(4, 8), norm="both", activation="relu", upsample="pixelshuffle"),
        Preprocessing(height=48, width=64),
        TrainingConfig(epochs=20, batch_size=8, lr=1e-2, schedule="onecycle"),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        train(job, run)
        export(run, DATA / "tiny_bundle", Options(**GATES), force=True)
        free = Options(**GATES, output="both", dynamic_size=True)
        export(run, DATA / "tiny_logits", free, force=True)


if __name__ == "__main__":
    main()
