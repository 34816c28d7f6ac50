"""The commands of this package: ``edgeseg export``, ``build`` and ``triton``."""
