"""Train a U-Net for semantic segmentation: ``edgeseg train --data synthetic --out runs/first``.

``edgeseg_train.unet`` is the model, ``edgeseg_train.data`` the data sets (without torch, so
that a device can benchmark on them), ``edgeseg_train.run.training`` the loop.
"""
