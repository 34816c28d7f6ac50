"""What runs in a process of its own: a script each, as short as a user would write it."""

from __future__ import annotations

import subprocess
import sys

FIRST_MASK = """
import sys
from edgeseg import Segmenter
bundle, picture, mask = sys.argv[1:]
Segmenter.load(bundle, "ort:cpu", "int8-cpu")(picture).save(mask)
"""
PLAIN_SCRIPT = """
import sys
import numpy as np, onnxruntime
from PIL import Image
bundle, picture, mask = sys.argv[1:]
session = onnxruntime.InferenceSession(bundle + "/model.int8-cpu.onnx")
_, height, width, _ = session.get_inputs()[0].shape
image = Image.open(picture)
pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
name = session.get_inputs()[0].name
class_map = session.run(None, {name: pixels[None]})[0][0]
Image.fromarray(class_map).resize(image.size, Image.Resampling.NEAREST).save(mask)
"""
IMPORTS_ONLY = "import numpy, onnxruntime, PIL.Image"
MEMORY = """
import re, sys
from edgeseg import Segmenter
bundle, picture, mask = sys.argv[1:]
segmenter = Segmenter.load(bundle, "ort:cpu", "int8-cpu")
for _ in range(20):
    segmenter(picture).save(mask)
status = open("/proc/self/status").read()
print(*(int(re.search(name + r":\\s+(\\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")))
"""
MODEL_ONLY = """
import sys, time
from edgeseg import Segmenter
bundle, picture, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
segmenter = Segmenter.load(bundle, "ort:cpu", "int8-cpu")
pixels = segmenter.prepare(picture).pixels[None]
for _ in range(5):
    segmenter.session.infer(pixels)
start = time.perf_counter()
for _ in range(count):
    segmenter.session.infer(pixels)
print(count / (time.perf_counter() - start))
"""


def python(code: str, *arguments: object) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
