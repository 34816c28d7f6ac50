"""Export a run folder to a bundle: ``edgeseg export runs/first --out bundles/first``.

``graph`` makes the ONNX file, ``int8`` quantises it, ``parity`` measures the distance from
PyTorch, ``exporting`` puts the bundle together and refuses to publish what fails its gates.
"""
