"""A bundle behind HTTP: ``edgeseg serve BUNDLE --port 8000``; extra ``serve``.

    curl --data-binary @photo.jpg http://127.0.0.1:8000/segment > mask.png

``server`` listens and stops, ``app`` knows the routes: ``v2`` is KServe's protocol with the tensors
of ``tensors``, ``pictures`` is plain pictures and the web page. ``intake`` says what is let in,
``service`` does the work, in which ``batching`` shares one network among all requests; ``metrics``
counts.
"""
