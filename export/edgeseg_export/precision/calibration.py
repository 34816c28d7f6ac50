"""Observe the activations of the fp32 master on real images, once for all quantised variants.

The images come through the shipped preprocessing, as every image on the device will.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization import CalibrationMethod as OrtMethod
from onnxruntime.quantization.calibrate import create_calibrator

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError, show
from edgeseg.files import sha256_bytes
from edgeseg.manifest import Calibration, CalibrationMethod
from edgeseg_export.graph.torch_export import INPUT, layer_name, quiet

MIN_IMAGES = 8
_METHODS = {
    "minmax": OrtMethod.MinMax,
    "entropy": OrtMethod.Entropy,
    "percentile": OrtMethod.Percentile,
}

# With as many bins as quantised levels, ONNX Runtime's default, entropy could cut nothing off.
_OPTIONS = {"minmax": {}, "entropy": {"num_bins": 512}, "percentile": {}}

# Tensor name to the smallest and largest value that the quantiser shall represent.
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class CalibrationImages:
    """Names and preprocessed pixels, each uint8 (H, W, 3), of the images that calibrate.

    ``source`` is the data set's public name.
    """

    source: str
    names: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]

    def check(self, evaluation: Sequence[NDArray[np.uint8]]) -> None:
        """Refuse images that cannot calibrate.

        Raises:
            InputError: fewer than ``MIN_IMAGES``, images of one colour, or images that the
                evaluation holds, too: the measured accuracy would flatter.
        """
        if len(self.images) < MIN_IMAGES:
            raise InputError(
                f"calibration needs at least {MIN_IMAGES} images, but {show(self.source)} gives "
                f"{len(self.images)} train images; give more data with --calibration"
            )
        if all(image.min() == image.max() for image in self.images):
            raise InputError("all calibration images are of one colour; use real images")
        evaluated = {sha256_bytes(image.tobytes()) for image in evaluation}
        shared = [
            name
            for name, image in zip(self.names, self.images, strict=True)
            if sha256_bytes(image.tobytes()) in evaluated
        ]
        if shared:
            raise InputError(
                f"{len(shared)} calibration images are evaluation images, too, first "
                f"{show(shared[0])}; the measured accuracy would flatter: take them out of one "
                "split, or give other data with --calibration"
            )

    def describe(self, method: CalibrationMethod) -> Calibration:
        """Return the manifest's record; its hash covers names and pixels in order."""
        digest = hashlib.sha256()
        for name, image in zip(self.names, self.images, strict=True):
            digest.update(f"{name}\0{image.shape}\0".encode())
            digest.update(image.tobytes())
        return Calibration(
            source=self.source,
            images=len(self.images),
            method=method,
            list_sha256=digest.hexdigest(),
        )


class _OneImage(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type hints
    """Feeds a single image, so that histograms never hold the tensors of more than one."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._feeds = iter([{INPUT: image[np.newaxis]}])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._feeds, None)


def observe(
    master: bytes,
    images: Sequence[NDArray[np.uint8]],
    method: CalibrationMethod,
    progress: Callable[[int], None] = lambda done: None,
) -> Ranges:
    """Run the fp32 graph on the images and return a range for every float tensor.

    Args:
        master: what ``to_onnx`` returned.
        images: preprocessed, each uint8 (H, W, 3).
        method: ``minmax`` keeps the extremes; ``entropy`` (least Kullback-Leibler divergence)
            and ``percentile`` (99.999 %) cut off outliers, and take much longer.
        progress: called with the number of images done.

    Raises:
        InputError: a convolution's input is zero in all images.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, augmented = Path(folder, "fp32.onnx"), Path(folder, "augmented.onnx")
        source.write_bytes(master)
        calibrator = create_calibrator(
            source, None, str(augmented), _METHODS[method], extra_options=_OPTIONS[method]
        )
        # ONNX Runtime calibrates without graph optimisations, at a third of the speed.
        calibrator.infer_session = _session(augmented)
        for done, image in enumerate(images, 1):
            calibrator.collect_data(_OneImage(image))
            progress(done)
        found = calibrator.compute_data()
        ranges = {
            name: (np.min(data.range_value[0]).item(), np.max(data.range_value[1]).item())
            for name, data in found.items()
        }
    _check_activity(onnx.load_from_string(master), ranges)
    return ranges


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _check_activity(model: onnx.ModelProto, ranges: Ranges) -> None:
    for node in model.graph.node:
        if node.op_type == "Conv" and ranges[node.input[0]] == (0.0, 0.0):
            raise InputError(
                f"the input of layer {layer_name(node)} is zero in all calibration images, so it "
                "has no range; use real images, or train the network further"
            )
