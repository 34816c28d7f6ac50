"""How far is an exported variant from PyTorch, in segmentation units, on real images?

``evaluation`` holds the images with PyTorch's answers, ``measure`` compares a variant with them,
``flips`` sorts the pixels that changed, ``gates`` says what is good enough, ``layers`` finds the
first layer that leaves tolerance.
"""
