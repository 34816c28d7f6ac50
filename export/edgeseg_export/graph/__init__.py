"""The ONNX graph: ``torch_export`` makes the fp32 master, ``for_cpu`` suits it to 8-bit kernels.

The other modules hold one rewrite each; ``editor`` is what they are written with.
"""
