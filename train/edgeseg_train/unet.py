"""The U-Net: the building block of the project, readable top to bottom.

With its defaults this is the reference network, 31,041,430 parameters, and checkpoints
of the reference implementation load unchanged: the state-dict keys are
``downs.{i}.conv.{j}``, ``bottleneck.conv.{j}``, ``ups.{2i}`` (upsampling),
``ups.{2i+1}.conv.{j}`` and ``final_conv``.

After Ronneberger et al., U-Net, arXiv:1505.04597.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.labels import MAX_CLASSES

Norm = Literal["first", "both"]
Activation = Literal["gelu", "relu"]
Upsample = Literal["transpose", "pixelshuffle"]


class UNetConfig(BaseModel):
    """Everything that defines the architecture; the defaults are the reference network.

    Attributes:
        in_channels: 3 for RGB.
        num_classes: number of logits per pixel.
        features: channels per level, from full resolution downwards; the bottleneck doubles
            the last one. The input's sides must be multiples of ``2 ** len(features)``.
        norm: batch norm after the ``first`` convolution of each block (the reference), or
            after ``both``, which trains faster and more stably; it costs nothing when
            deployed, because export folds it into the convolutions.
        activation: ``gelu`` (tanh approximation, the reference) or ``relu``, which fuses into
            the convolution in INT8 kernels and runs on DLAs.
        upsample: ``transpose`` (2x2 transposed convolution, stride 2, the reference) or
            ``pixelshuffle`` (1x1 convolution, then PixelShuffle): the same number of
            multiplications, but an ordinary convolution, which INT8 runtimes can quantise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = Field(default=3, ge=1)
    num_classes: int = Field(default=150, ge=1, le=MAX_CLASSES)
    features: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(64, 128, 256, 512), min_length=1, max_length=8
    )
    norm: Norm = "first"
    activation: Activation = "gelu"
    upsample: Upsample = "transpose"

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of: 2 per level."""
        return int(2 ** len(self.features))


class DoubleConv(nn.Module):
    """Two 3x3 convolutions without bias; (N, in, H, W) -> (N, out, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: Norm, activation: Activation
    ) -> None:
        super().__init__()

        def act() -> nn.Module:
            return nn.GELU(approximate="tanh") if activation == "gelu" else nn.ReLU(inplace=True)

        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            act(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        ]
        if norm == "both":
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(act())
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions with their norms and activations."""
        result: Tensor = self.conv(x)
        return result


def upsampling(in_channels: int, out_channels: int, kind: Upsample) -> nn.Module:
    """Return a layer (N, in, H, W) -> (N, out, 2H, 2W)."""
    if kind == "transpose":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    return nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))


class UNet(nn.Module):
    """Encoder, bottleneck, decoder with skip connections, 1x1 head."""

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        channels = config.in_channels
        for width in config.features:
            self.downs.append(DoubleConv(channels, width, config.norm, config.activation))
            channels = width
        self.bottleneck = DoubleConv(channels, 2 * channels, config.norm, config.activation)
        channels *= 2
        for width in reversed(config.features):
            self.ups.append(upsampling(channels, width, config.upsample))
            self.ups.append(DoubleConv(2 * width, width, config.norm, config.activation))
            channels = width
        self.final_conv = nn.Conv2d(config.features[0], config.num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: float (N, in_channels, H, W), normalised; H and W multiples of
                ``config.size_multiple`` (see ``SegmentationNetwork`` for any size).

        Returns:
            float (N, num_classes, H, W).
        """
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        for i in range(0, len(self.ups), 2):
            x = self.ups[i](x)
            x = self.ups[i + 1](torch.cat((skips.pop(), x), dim=1))
        logits: Tensor = self.final_conv(x)
        return logits


class SegmentationNetwork(nn.Module):
    """What is trained, evaluated and exported: uint8 picture in, logits at its size out.

    Normalisation is part of the network, so that no runtime can get it wrong. Sizes that are
    not multiples of ``2 ** depth`` are padded at the bottom and right with the mean colour
    (zero after normalisation, as the convolutions' own padding) and the logits cropped back.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        unet: UNet,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        pad: bool = True,
    ) -> None:
        """Wrap ``unet``; ``pad=False`` leaves padding out, for export with a dynamic size."""
        super().__init__()
        self.unet = unet
        self.pad = pad
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_nhwc_u8: Tensor) -> Tensor:
        """Return float logits (N, C, H, W) for uint8 (N, H, W, 3) RGB images."""
        # Cast before transposing: TensorRT lets uint8 tensors meet nothing but a cast.
        x = images_nhwc_u8.float().permute(0, 3, 1, 2)
        x = (x / 255 - self.mean) / self.std
        if not self.pad:
            return self._logits(x)
        height, width = x.shape[2:]
        multiple = self.unet.config.size_multiple
        bottom, right = -height % multiple, -width % multiple
        if bottom or right:
            return self._logits(F.pad(x, (0, right, 0, bottom)))[:, :, :height, :width]
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.unet(x)
        return logits


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
