"""The PyTorch reference as a session, so that it is measured by the same code as all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.bundle import Bundle
from edgeseg.cpu import cpu_threads
from edgeseg.errors import ArtifactError, DeviceError, show
from edgeseg_train.run_folder import load_network, read_config


class TorchSession:
    """Eager PyTorch in FP32, channels_last, inference mode; on the GPU where there is one."""

    backend = "torch"
    variant = "fp32"

    def __init__(self, run: Path, bundle: Bundle) -> None:
        """Load a run folder.

        Raises:
            ArtifactError: no usable run folder, or the bundle was exported from another model.
        """
        config = read_config(run)
        if config.model.model_dump(mode="json") != bundle.manifest.model.config:
            raise ArtifactError(
                f"run folder {show(run)} has another model than bundle {show(bundle.path)}; "
                "give the run that the bundle was exported from"
            )
        torch.set_num_threads(cpu_threads())
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_network(run, config).to(self._device)
        self._network: torch.nn.Module | None = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def infer(self, images_nhwc_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class maps uint8 (N, H, W) for images uint8 (N, H, W, 3) RGB.

        Raises:
            DeviceError: the session is closed.
        """
        if self._network is None:
            raise DeviceError("the session is closed; open a new one")
        images = torch.tensor(images_nhwc_u8, device=self._device)
        class_maps: NDArray[np.uint8] = (
            self._network(images).argmax(dim=1).to(torch.uint8).cpu().numpy()
        )
        return class_maps

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self._network = None
