"""What the runtime costs around the network: stages, start-up, memory, folders, installed size.

    python -m edgeseg_benchmarks.runtime_speed --seed BUNDLE --edge BUNDLE --out DIR

Both bundles are of 256x256 with ``int8-cpu``, of the ``seed`` and the ``edge`` preset. What is
compared takes turns, forwards and backwards, and every start-up, memory and folder measurement has
a process of its own; trust the ratios and the CPU times, wall times are this machine's just then.
"""
