"""Images larger than the model: overlapping tiles, blended.

``plan`` says where the tiles lie, ``blend`` puts their answers together, ``segmenter`` does so for
pictures in memory, ``large`` for TIFF files of any size, which ``raster`` reads and writes.
"""

from __future__ import annotations

from edgeseg.tiling.large import MaskFile, segment_tiff
from edgeseg.tiling.plan import default_overlap
from edgeseg.tiling.raster import is_large_tiff
from edgeseg.tiling.segmenter import TiledSegmenter

__all__ = ["MaskFile", "TiledSegmenter", "default_overlap", "is_large_tiff", "segment_tiff"]
