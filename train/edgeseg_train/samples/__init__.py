"""From data sets to batches: samples read once, kept decoded, augmented, shared out."""
