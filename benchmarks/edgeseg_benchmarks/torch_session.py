"""The PyTorch reference as a session, so that it is measured by the same code as all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.errors import ArtifactError, DeviceError, show
from edgeseg_train.run_folder import load_network, read_config, weights_sha256


class TorchSession:
    """Eager PyTorch in FP32, channels_last, inference mode, batch norm not folded."""

    variant = "fp32"
    fallback: str | None = None

    def __init__(self, run: Path, bundle: Bundle, *, on_gpu: bool = False) -> None:
        """Load a run folder, onto the GPU where wanted and present.

        Raises:
            ArtifactError: no usable run folder, or the bundle was exported from other weights.
        """
        config = read_config(run)
        network = load_network(run, config)
        if weights_sha256(run) != bundle.manifest.model.weights_sha256:
            raise ArtifactError(
                f"run folder {show(run)} has other weights than bundle {show(bundle.path)}; "
                "give the run that the bundle was exported from"
            )
        torch.set_num_threads(cpu_threads())
        cuda = on_gpu and torch.cuda.is_available()
        # TF32 keeps 10 bits of mantissa: it would not be the FP32 that this row is called.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.backend = "torch:cuda" if cuda else "torch"
        self._device = torch.device("cuda" if cuda else "cpu")
        self._network: torch.nn.Module | None = network.to(self._device).to(
            memory_format=torch.channels_last
        )

    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            DeviceError: the session is closed.
        """
        # The first of equals, as argmax, but faster on CPUs.
        classes = self._logits(images_nhwc_u8).max(dim=1).indices
        class_maps: NDArray[np.uint8] = classes.to(torch.uint8).cpu().numpy()
        return class_maps

    def infer_logits(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits float32 (N, C, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            DeviceError: the session is closed.
        """
        logits: NDArray[np.float32] = self._logits(images_nhwc_u8).cpu().numpy()
        return logits

    @torch.inference_mode()
    def _logits(self, images: NDArray[np.uint8]) -> torch.Tensor:
        if self._network is None:
            raise DeviceError("the session is closed; open a new one")
        logits: torch.Tensor = self._network(torch.tensor(images, device=self._device))
        return logits

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self._network = None
