"""One bundle over many pictures on several machines, with Ray Data: ``edgeseg run --ray``.

    edgeseg run bundles/street s3://photos/2026 --ray --workers 8 --out s3://masks/2026

``places`` reads and writes folders and addresses alike, ``plan`` pairs each picture with its mask,
``worker`` is the session that each process holds, ``job`` runs them and writes the index.
"""
