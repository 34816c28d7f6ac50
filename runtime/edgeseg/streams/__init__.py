"""Many pictures, one after the other: folders, video files, network streams, cameras.

``pipeline`` overlaps the work of all of them. ``source`` says what a stream is; ``decode``
(PyAV) and ``csi`` (a Jetson's cameras) read one, ``camera`` takes the newest frame of it,
``video`` segments it, ``encode`` and ``window`` take the result, ``report`` measures.
"""
