"""Quantise within an accuracy budget: the worst layers go back to floating point.

When a fully quantised variant misses a gate, its layers are ranked by sensitivity, and the
shortest list of the most sensitive ones is searched that, left in floating point, passes. At least
one layer stays quantised: a variant must not be something else than its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from edgeseg.manifest import Parity
from edgeseg_export.precision.sensitivity import Sensitivity

Try = Callable[[Collection[str]], Parity]


@dataclass(frozen=True)
class Fit:
    """The result of a search.

    Attributes:
        float_layers: what has to stay in floating point, most sensitive first.
        parity: of the variant with these layers; its gates may still be missed.
        ranking: the sensitivity, where it was measured.
    """

    float_layers: tuple[str, ...]
    parity: Parity
    ranking: Sensitivity | None


def fit(
    attempt: Try,
    rank: Callable[[], Sensitivity],
    tell: Callable[[str], None],
    *,
    always_rank: bool = False,
) -> Fit:
    """Find the fewest most sensitive layers whose return to floating point passes the gates.

    Args:
        attempt: makes the variant with the given layers in floating point and measures it.
        rank: measures the sensitivity of the layers; called at most once.
        tell: called with a line about each attempt.
        always_rank: rank the layers even when nothing has to be changed.
    """
    whole = attempt(())
    if not whole.failures:
        return Fit((), whole, rank() if always_rank else None)
    tell(f"over budget: {'; '.join(whole.failures)}")
    ranking = rank()
    layers = [entry.layer for entry in ranking.layers]
    failing, passing = 0, len(layers)
    best = attempt(layers)
    if best.failures:
        tell("not even with all layers in floating point do the gates hold: no budget can help")
        return Fit((), whole, ranking)
    # Bisection takes it that more float layers are no worse; the result itself is measured.
    while passing - failing > 1:
        middle = (failing + passing) // 2
        parity = attempt(layers[:middle])
        tell(
            f"{middle} of {len(layers)} layers in float: "
            f"{'; '.join(parity.failures) or 'the gates hold'}"
        )
        if parity.failures:
            failing = middle
        else:
            passing, best = middle, parity
    if passing == len(layers):
        tell("only with every layer in floating point do the gates hold: that is no quantisation")
        return Fit((), whole, ranking)
    chosen = tuple(layers[:passing])
    return Fit(chosen, best, ranking.with_float(chosen))
