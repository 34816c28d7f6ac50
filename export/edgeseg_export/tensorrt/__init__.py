"""Build TensorRT engines: ``edgeseg build bundles/first --backend tensorrt --variant fp16``.

``options`` reads what the user asked for, ``profiles`` turns sizes into input shapes, ``network``
parses the ONNX file, ``attest`` and ``inspect`` read its and the engine's precisions back,
``config`` sets the builder, ``progress`` shows and cancels it, ``building`` is the whole flow.
Needs no torch and no onnx; one code path serves TensorRT 10.3 to 11 and TensorRT-RTX.
"""
