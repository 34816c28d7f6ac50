"""Calibration: the ranges are PyTorch's, outliers are cut where asked, bad images are refused."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeseg.errors import InputError
from edgeseg_export.graph.torch_export import fold_batch_norm, to_onnx
from edgeseg_export.precision.calibration import CalibrationImages, layer_name, observe

COLOURS = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)


def calibration(images: np.ndarray = COLOURS, source: str = "street") -> CalibrationImages:
    return CalibrationImages(source, tuple(f"{i:03}" for i in range(len(images))), tuple(images))


@torch.inference_mode()
def torch_extremes(network: nn.Module, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the smallest input and the largest output of each layer, by PyTorch's hooks."""
    folded = fold_batch_norm(network)
    found: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> None:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            found.setdefault(f"{name} in", []).append(args[0].clone())
            found.setdefault(f"{name} out", []).append(out.clone())

        folded.unet.get_submodule(name).register_forward_hook(hook)

    for name, module in folded.unet.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            watch(name)
    for image in images:
        folded(torch.tensor(image)[None])
    return {
        name: (min(t.min().item() for t in tensors), max(t.max().item() for t in tensors))
        for name, tensors in found.items()
    }


def test_minmax_ranges_are_the_extremes_of_pytorchs_activations(both) -> None:
    expected = torch_extremes(both.network, both.images)
    layers = [
        node
        for node in onnx.load_from_string(both.master).graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    ]
    assert len(layers) == 13
    for node in layers:
        for tensor, side in ((node.input[0], "in"), (node.output[0], "out")):
            np.testing.assert_allclose(
                both.ranges[tensor], expected[f"{layer_name(node)} {side}"], rtol=1e-4, atol=1e-5
            )


def test_every_image_counts_and_their_order_does_not(both) -> None:
    few = observe(both.master, both.images[:4], "minmax")
    backwards = observe(both.master, both.images[::-1], "minmax")
    assert backwards == both.ranges
    assert few != both.ranges
    for name, (low, high) in few.items():
        assert both.ranges[name][0] <= low <= high <= both.ranges[name][1]


@pytest.mark.parametrize("method", ["entropy", "percentile"])
@pytest.mark.parametrize("outlier_at", [0, 3])
def test_an_outlier_is_cut_off_whichever_image_it_is_in(
    exported, method: str, outlier_at: int
) -> None:
    small = {"features": (4,), "activation": "relu", "upsample": "pixelshuffle"}
    master = exported(dynamic_size=True, **small).master
    grey = np.random.default_rng(0).normal(124, 8, (4, 256, 256, 3)).astype(np.uint8)
    bright = grey.copy()
    bright[outlier_at, 9, 9] = 255
    first = next(n for n in onnx.load_from_string(master).graph.node if n.op_type == "Conv")
    picture = first.input[0]
    (_, usual), (_, extreme), (_, cut) = (
        observe(master, images, chosen)[picture]
        for images, chosen in ((grey, "minmax"), (bright, "minmax"), (bright, method))
    )
    assert extreme > 2 * usual
    assert cut < 1.1 * usual


def test_nothing_is_printed_and_logging_works_again_afterwards(
    both, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("minmax", "percentile"):
        observe(both.master, both.images[:2], method)
    assert capfd.readouterr() == ("", "")
    logging.getLogger().warning("still heard")
    assert [record.message for record in caplog.records] == ["still heard"]


def test_progress_is_reported_image_by_image(both) -> None:
    done: list[int] = []
    observe(both.master, both.images[:3], "minmax", done.append)
    assert done == [1, 2, 3]


def test_a_layer_whose_input_is_always_zero_is_named(make_network) -> None:
    network = make_network(activation="relu", upsample="transpose", features=(4,))
    with torch.no_grad():
        network.unet.downs[0].conv[1].weight.zero_()
        network.unet.downs[0].conv[1].bias.fill_(-1)
    with pytest.raises(InputError, match=r"^the input of layer downs\.0\.conv\.3 is zero in all"):
        observe(to_onnx(network, 16, 16), COLOURS[:2], "minmax")


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_images_are_refused_with_their_number(count: int) -> None:
    message = rf"needs at least 8 images, but 'street' gives {count} train images; .*--calibration"
    with pytest.raises(InputError, match=message):
        calibration(COLOURS[:count]).check([])


def test_eight_images_are_enough() -> None:
    calibration(COLOURS[:8]).check(list(COLOURS[8:]))


def test_images_of_one_colour_are_refused_but_one_real_image_may_be_among_them() -> None:
    flat = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None, None], (8, 16, 16, 3)).copy()
    with pytest.raises(InputError, match="all calibration images are of one colour"):
        calibration(flat).check([])
    flat[3] = COLOURS[0]
    calibration(flat).check([])


def test_images_of_the_evaluation_are_refused_with_their_number_and_first_name() -> None:
    evaluation = [COLOURS[5].copy(), COLOURS[2].copy()]
    message = r"^2 calibration images are evaluation images, too, first '002'; .* would flatter"
    with pytest.raises(InputError, match=message):
        calibration().check(evaluation)
    evaluation = [image + np.uint8(1) for image in evaluation]
    calibration().check(evaluation)


def test_the_hash_depends_on_names_pixels_order_and_shapes() -> None:
    a, b = COLOURS[:2]
    lists = [
        (("1", "2"), (a, b)),
        (("1", "2"), (b, a)),
        (("2", "1"), (a, b)),
        (("1", "3"), (a, b)),
        (("1",), (a,)),
        (("1",), (a.reshape(32, 8, 3),)),
        (("1",), (a + np.uint8(1),)),
    ]
    hashes = {
        CalibrationImages("d", names, images).describe("minmax").list_sha256
        for names, images in lists
    }
    assert len(hashes) == len(lists)


def test_the_record_says_what_calibrated() -> None:
    record = calibration(COLOURS[:8]).describe("entropy")
    assert (record.source, record.images, record.method) == ("street", 8, "entropy")
    elsewhere = calibration(COLOURS[:8], "other").describe("minmax")
    assert elsewhere.list_sha256 == record.list_sha256
