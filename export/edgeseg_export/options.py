"""What to export, and the checks of it that need no data."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.errors import InputError, UsageError
from edgeseg.manifest import CalibrationMethod, Precision
from edgeseg.preprocess import Preprocessing
from edgeseg_export.graph.torch_export import OutputKind
from edgeseg_export.parity.gates import Gates, gates_for
from edgeseg_export.precision.variants import Target
from edgeseg_train.run_folder import RunConfig

Size = tuple[int, int]

MIN_IMAGES, MAX_IMAGES = 24, 64
GFLOPS = 2400.0  # of judging images by default: about a minute on two cores


@dataclass(frozen=True)
class Options:
    """What to export; None takes the run's own value or the default gate.

    Attributes:
        precisions: empty takes the target's usual ones; fp32 is always made.
        target: which devices quantised variants are for.
        sizes: (height, width) of the network's input; several make a bucketed bundle, whose
            graph runs at exactly these sizes.
        dynamic_size: leave height and width free, in multiples of ``2 ** depth``.
        output: what the graph returns.
        calibration: data set for calibration (train images) and parity (val images).
        calibration_images: how many train images calibrate.
        calibration_method: how their ranges are chosen.
        parity_images: how many val images every variant is measured on; None takes 64, and
            fewer, down to 24, for networks above 37 GFLOPs, so that an export takes a minute.
        min_agreement, max_miou_drop, max_wide_flips: gates, 0..1, see ``Gates``; they can
            tighten fp32's, not loosen them.
        sensitivity: rank the layers of quantised variants even when their gates hold.
    """

    precisions: tuple[Precision, ...] = ()
    target: Target = "cpu"
    sizes: tuple[Size, ...] = ()
    dynamic_size: bool = False
    output: OutputKind = "classmap"
    calibration: str | None = None
    calibration_images: int = 100
    calibration_method: CalibrationMethod = "minmax"
    parity_images: int | None = None
    min_agreement: float | None = None
    max_miou_drop: float | None = None
    max_wide_flips: float | None = None
    sensitivity: bool = False

    def judging_images(self, gflops: float) -> int:
        """Return how many val images judge a network of so many GFLOPs."""
        if self.parity_images is not None:
            return self.parity_images
        return min(MAX_IMAGES, max(MIN_IMAGES, int(GFLOPS // max(gflops, 1e-9))))

    @property
    def free_size(self) -> bool:
        """Whether height and width of the graph are symbolic."""
        return self.dynamic_size or len(self.sizes) > 1

    def gates(self, precision: Precision) -> Gates:
        """Return the gates of a precision."""
        return gates_for(precision, self.min_agreement, self.max_miou_drop, self.max_wide_flips)

    def preprocessing(self, config: RunConfig) -> Preprocessing:
        """Return the run's preprocessing at the exported size."""
        own = config.preprocessing
        return own.at(self.sizes[0] if self.sizes else own.size)

    def all_sizes(self, config: RunConfig) -> tuple[Size, ...]:
        """Return every size to measure at, the bundle's own first.

        Raises:
            UsageError: the same size twice.
            InputError: a graph of free size cannot pad, and a size is no multiple.
        """
        sizes = self.sizes or (config.preprocessing.size,)
        if len(set(sizes)) < len(sizes):
            raise UsageError("--sizes names the same size twice")
        multiple = config.model.size_multiple
        for height, width in sizes:
            if self.free_size and (height % multiple or width % multiple):
                raise InputError(
                    f"size {height}x{width} does not fit: with several or free sizes both sides "
                    f"must be multiples of {multiple}; nearest: "
                    f"{_nearest(height, multiple)}x{_nearest(width, multiple)} (a single --size "
                    "may be any, it is padded inside)"
                )
        return sizes


def _nearest(side: int, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
