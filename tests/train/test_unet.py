"""The U-Net against an independent re-statement of its layers, and against arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg_train.unet import SegmentationNetwork, UNet, UNetConfig, count_parameters


def randomised(config: UNetConfig) -> UNet:
    """Return a network whose batch norms have statistics that matter."""
    torch.manual_seed(0)
    unet = UNet(config).eval()
    for name, tensor in unet.state_dict().items():
        if "running_mean" in name:
            tensor.normal_()
        elif "running_var" in name:
            tensor.uniform_(0.5, 2)
    return unet


def double_conv(x: Tensor, state: dict[str, Tensor], prefix: str, config: UNetConfig) -> Tensor:
    second = 3
    for position, normed in ((0, True), (second, config.norm == "both")):
        x = F.conv2d(x, state[f"{prefix}.conv.{position}.weight"], padding=1)
        if normed:
            key = f"{prefix}.conv.{position + 1}"
            mean, variance = state[f"{key}.running_mean"], state[f"{key}.running_var"]
            scale, shift = state[f"{key}.weight"], state[f"{key}.bias"]
            column = (1, -1, 1, 1)
            x = (x - mean.view(column)) / torch.sqrt(variance.view(column) + 1e-5)
            x = x * scale.view(column) + shift.view(column)
        if config.activation == "gelu":
            x = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
        else:
            x = x.clamp(min=0)
    return x


def restated(x: Tensor, state: dict[str, Tensor], config: UNetConfig) -> Tensor:
    """Compute the forward pass from the state dict alone, after the paper's figure 1."""
    depth, skips = len(config.features), []
    for level in range(depth):
        x = double_conv(x, state, f"downs.{level}", config)
        skips.append(x)
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))
    x = double_conv(x, state, "bottleneck", config)
    for level in range(depth):
        if config.upsample == "transpose":
            key = f"ups.{2 * level}"
            blocks = torch.einsum("nchw,cokl->nohkwl", x, state[f"{key}.weight"])
            n, c, h, _, w, _ = blocks.shape
            x = blocks.reshape(n, c, 2 * h, 2 * w) + state[f"{key}.bias"].view(1, -1, 1, 1)
        else:
            key = f"ups.{2 * level}.0"
            x = torch.einsum("nchw,oc->nohw", x, state[f"{key}.weight"][:, :, 0, 0])
            x = x + state[f"{key}.bias"].view(1, -1, 1, 1)
            n, c, h, w = x.shape
            x = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
            x = x.reshape(n, c // 4, 2 * h, 2 * w)
        x = torch.cat((skips.pop(), x), dim=1)
        x = double_conv(x, state, f"ups.{2 * level + 1}", config)
    head = torch.einsum("nchw,oc->nohw", x, state["final_conv.weight"][:, :, 0, 0])
    return head + state["final_conv.bias"].view(1, -1, 1, 1)


@pytest.mark.parametrize("norm", ["first", "both"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("upsample", ["transpose", "pixelshuffle"])
@torch.inference_mode()
def test_the_network_computes_what_its_layers_say(
    norm: str, activation: str, upsample: str
) -> None:
    config = UNetConfig.model_validate(
        {
            "num_classes": 7,
            "features": (4, 6, 8),
            "norm": norm,
            "activation": activation,
            "upsample": upsample,
        }
    )
    unet = randomised(config)
    x = torch.randn(2, 3, 24, 16)
    torch.testing.assert_close(
        unet(x), restated(x, unet.state_dict(), config), rtol=1e-4, atol=1e-4
    )


def reference_parameters(channels: int, classes: int, features: tuple[int, ...]) -> int:
    """Count by hand: 9*in*out per 3x3 convolution, 2 per normed channel, 4*in*out + out up."""

    def block(inside: int, outside: int) -> int:
        return 9 * inside * outside + 2 * outside + 9 * outside * outside

    total = 0
    for width in features:
        total += block(channels, width)
        channels = width
    total += block(channels, 2 * channels)
    for width in reversed(features):
        total += 4 * (2 * width) * width + width  # transposed convolution with bias
        total += block(2 * width, width)
    return total + features[0] * classes + classes


def test_the_default_network_is_the_reference_with_31_041_430_parameters() -> None:
    config = UNetConfig()
    assert config.features == (64, 128, 256, 512)
    assert (config.norm, config.activation, config.upsample) == ("first", "gelu", "transpose")
    assert reference_parameters(3, 150, (64, 128, 256, 512)) == 31_041_430
    assert count_parameters(UNet(config)) == 31_041_430


def test_state_dict_keys_are_those_of_the_reference_implementation() -> None:
    keys = set(UNet(UNetConfig(features=(4, 8))).state_dict())
    blocks = ("downs.0", "downs.1", "bottleneck", "ups.1", "ups.3")
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{b}.conv.{j}.weight" for b in blocks for j in (0, 3)}
    expected |= {f"{b}.conv.1.{name}" for b in blocks for name in norm}
    expected |= {
        f"{b}.{name}" for b in ("ups.0", "ups.2", "final_conv") for name in ("weight", "bias")
    }
    assert keys == expected


def network(pad: bool = True) -> SegmentationNetwork:
    config = UNetConfig(num_classes=5, features=(4, 8))
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 1.0)
    return SegmentationNetwork(randomised(config), mean, std, pad=pad).eval()


@torch.inference_mode()
def test_normalisation_is_per_channel_on_pixels_scaled_to_one() -> None:
    images = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    net = network()
    normalised = (images.double() / 255 - torch.tensor([0.5, 0.25, 0.125])) / torch.tensor(
        [0.5, 0.25, 1.0]
    )
    expected = net.unet(normalised.permute(0, 3, 1, 2).float())
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 9), (7, 8), (8, 7), (13, 30)])
@torch.inference_mode()
def test_any_size_gives_logits_of_that_size_as_if_padded_with_the_mean_colour(
    height: int, width: int
) -> None:
    images = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    net = network()
    logits = net(images)
    assert logits.shape == (1, 5, height, width)
    padded = torch.zeros(1, 3, -(-height // 4) * 4, -(-width // 4) * 4)
    padded[:, :, :height, :width] = (images.permute(0, 3, 1, 2) / 255 - net.mean) / net.std
    torch.testing.assert_close(logits, net.unet(padded)[:, :, :height, :width])


@torch.inference_mode()
def test_images_of_a_batch_do_not_influence_each_other() -> None:
    images = torch.randint(0, 256, (3, 8, 12, 3), dtype=torch.uint8)
    net = network()
    together = net(images)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
