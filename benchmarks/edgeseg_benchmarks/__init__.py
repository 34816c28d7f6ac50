"""Benchmarks: does the deployed model still segment, and how fast is it there?

``accuracy`` and ``latency`` measure, ``report`` keeps and prints, ``bench`` puts them together
for ``edgeseg bench``; ``demo`` runs every stage once.
"""
