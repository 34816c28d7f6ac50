"""How to train: recipes and presets, losses, optimiser and schedule."""
