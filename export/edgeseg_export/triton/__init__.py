"""A bundle as a model of NVIDIA's Triton inference server: ``edgeseg triton``.

``config`` says how to serve it, ``pbtxt`` writes that in protobuf's text format, ``plans`` takes
TensorRT engines, ``record`` remembers what a model's folder holds, ``repository`` writes it. None
of them needs torch, ONNX, ONNX Runtime or protobuf. A client needs ``tritonclient[http]`` and the
base install of edgeseg, for the same preprocessing as everywhere::

    from pathlib import Path

    import numpy as np
    import tritonclient.http as triton

    from edgeseg.images import read_image
    from edgeseg.labels import read_class_table
    from edgeseg.preprocess import Preprocessing
    from edgeseg.segmentation import Segmentation

    client = triton.InferenceServerClient("localhost:8000")
    (images,) = client.get_model_metadata("first")["inputs"]
    _, height, width, _ = (int(side) for side in images["shape"])

    photo = read_image("photo.jpg")
    fit = Preprocessing(height=height, width=width)  # resize="..." where the bundle has another
    batch = np.stack([fit.fit_image(photo)])
    request = triton.InferInput(images["name"], batch.shape, images["datatype"])
    request.set_data_from_numpy(batch)
    class_maps = client.infer("first", [request]).as_numpy("class_map")

    labels, _ = read_class_table(Path("model_repository/first/labels.tsv"))
    class_map = fit.restore_class_map(class_maps[0], *photo.shape[:2])
    Segmentation(class_map, labels, photo, {}).overlay().save("photo.overlay.png")
"""
