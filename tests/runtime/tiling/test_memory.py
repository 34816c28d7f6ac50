"""Memory does not grow with the picture; measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

rasterio = pytest.importorskip("rasterio", reason="TIFF windows need the extra 'large'")

DATA = Path(__file__).parents[2] / "data"

# VmHWM, not ru_maxrss: that starts at the peak of the process that started this one.
MEASURE = """
import json, sys
from pathlib import Path
import numpy as np

def report(mask):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({"peak": peak, "counts": mask.counts.tolist(), **mask.to_dict()}))

source, target = Path(sys.argv[1]), Path(sys.argv[2])
"""

# A network without memory of its own, small budgets: what is left is what the walk keeps.
SMALL = """
from edgeseg import Segmenter
from edgeseg.labels import numbered_labels
from edgeseg.preprocess import Preprocessing
from edgeseg.tiling import TiledSegmenter, raster, segment_tiff

class Brightest:
    backend = variant = "fake"
    fallback = None
    def infer_logits(self, images):
        return np.moveaxis(images, 3, 1).astype(np.float32)
    def close(self):
        pass

raster.CACHE_BYTES = 8_000_000
segmenter = Segmenter(Brightest(), numbered_labels(3), Preprocessing(height=256, width=256))
report(segment_tiff(TiledSegmenter(segmenter, 32, budget=1_000_000), source, target))
"""

REAL = """
from edgeseg import Segmenter
from edgeseg.tiling import TiledSegmenter, segment_tiff

with Segmenter.load(sys.argv[3], "ort:cpu", "fp32", (512, 512)) as segmenter:
    report(segment_tiff(TiledSegmenter(segmenter, 64), source, target))
"""


def scene_rows(top: int, height: int, width: int) -> NDArray[np.uint8]:
    """Rows of an endless picture of soft colours, uint8 (3, height, width)."""
    y = np.arange(top, top + height, dtype=np.float32)[:, np.newaxis]
    x = np.arange(width, dtype=np.float32)
    waves = [np.sin(y / 97 + x / 61), np.sin(x / 113 - y / 41), np.sin(y / 83) * np.sin(x / 71)]
    return (np.stack(waves) * 127 + 128).astype(np.uint8)


def write_scene(path: Path, height: int, width: int) -> None:
    """Write a TIFF of any size, 256 rows at a time."""
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "photometric": "RGB"}
    shape = {"height": height, "width": width, "count": 3, "dtype": "uint8"}
    transform = rasterio.Affine(0.1, 0, 500_000, 0, -0.1, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=transform, **layout, **shape
    ) as file:
        for top in range(0, height, 256):
            rows = min(256, height - top)
            pixels = scene_rows(top, rows, width)
            file.write(pixels, window=((top, top + rows), (0, width)))


def measured(code: str, *arguments: Path, timeout: float) -> dict[str, Any]:
    """Run code in a process of its own; return what it reports."""
    command = [sys.executable, "-c", MEASURE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    peaks = []
    for height, width in [(1000, 1000), (4000, 6000)]:
        source = tmp_path / f"{width}.tif"
        write_scene(source, height, width)
        found = measured(SMALL, source, tmp_path / "mask.tif", timeout=120)
        assert (found["height"], found["width"]) == (height, width)
        assert sum(found["counts"]) == height * width
        peaks.append(found["peak"])
    # The larger one has 69 MB more of pixels, 23 MB more of mask and 276 MB more of logits.
    assert peaks[1] - peaks[0] < 16_000_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_picture_of_400_megapixels_needs_less_than_1500_megabytes(tmp_path: Path) -> None:
    source, target = tmp_path / "picture.tif", tmp_path / "mask.tif"
    side = 20_000
    write_scene(source, side, side)
    found = measured(REAL, source, target, DATA / "tiny_logits", timeout=3 * 3600)
    source.unlink()  # 1.2 GB
    sys.stderr.write(f"peak {found['peak'] / 1e6:.0f} MB, {found['timings_ms']}\n")  # with -s
    assert found["peak"] < 1_500_000_000
    assert sum(found["counts"]) == side**2
    with rasterio.open(target) as mask:
        assert (mask.height, mask.width) == (side, side)
        assert mask.crs.to_epsg() == 32633
        assert mask.block_shapes == [(256, 256)]
    assert [path.name for path in tmp_path.iterdir()] == ["mask.tif"]
