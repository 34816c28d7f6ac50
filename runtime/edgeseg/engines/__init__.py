"""TensorRT engines on this machine: the library, the device, and the cache of what was built.

    edgeseg build bundles/first --backend tensorrt --variant fp16
    edgeseg build --list

``library`` loads ``tensorrt`` or ``tensorrt_rtx``, ``log`` collects what they say, ``device``
names the GPU, ``document`` is what is known of an engine, ``cache`` keeps engines and trusts
only its own, ``compatibility`` says whether one runs here. An engine is a local file: it fits one
GPU, one TensorRT and one ONNX file.
"""
