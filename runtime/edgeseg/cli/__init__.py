"""The ``edgeseg`` command: ``main`` finds the subcommand, ``output`` prints."""
