"""A training as it runs: the loop, checkpoints, devices, what it tells and leaves behind."""
