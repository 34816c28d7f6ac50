"""The accuracy budget: the fewest layers go back to float, and nothing is claimed that is not."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from edgeseg.manifest import Flips, LogitDifference, Parity
from edgeseg_export.precision.budget import Fit, fit
from edgeseg_export.precision.sensitivity import LayerSensitivity, Sensitivity

LAYERS = ("e", "b", "d", "a", "c")  # the most sensitive first


def parity(agreement: float) -> Parity:
    return Parity(
        images=1,
        measured_with="fake",
        agreement=agreement,
        reference_agreement=agreement,
        min_agreement=0.9,
        max_flip_margin=0,
        flips=Flips(pixels=1, boundary=0, interior=0, wide=0, by_margin=(0,) * 6),
        max_wide_flips=1,
        torch_miou=1,
        miou=1,
        miou_interval=None,
        class_iou_delta=(),
        max_miou_drop=1,
        logits=LogitDifference(images=1, max=0, mean=0),
    )


class Workshop:
    """A variant that passes once the given layers are in float; counts what it is asked."""

    def __init__(self, needed: Collection[str], hopeless: bool = False) -> None:
        self.needed, self.hopeless = set(needed), hopeless
        self.attempts: list[tuple[str, ...]] = []
        self.ranked = 0
        self.said: list[str] = []

    def attempt(self, float_layers: Collection[str]) -> Parity:
        self.attempts.append(tuple(float_layers))
        passes = not self.hopeless and self.needed <= set(float_layers)
        return parity(1 - 0.01 * len(set(float_layers)) if passes else 0.5)

    def rank(self) -> Sensitivity:
        self.ranked += 1
        entries = tuple(LayerSensitivity(layer=name, changed=0.1, miou_drop=0) for name in LAYERS)
        return Sensitivity(variant="int8-cpu", images=1, unquantised=0, layers=entries)

    def fit(self, always_rank: bool = False) -> Fit:
        return fit(self.attempt, self.rank, self.said.append, always_rank=always_rank)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_fewest_most_sensitive_layers_are_found(count: int) -> None:
    workshop = Workshop(LAYERS[:count])
    found = workshop.fit()
    assert found.float_layers == LAYERS[:count]
    assert found.parity == workshop.attempt(found.float_layers)
    assert found.parity.failures == []
    assert workshop.ranked == 1


def test_a_layer_deep_in_the_ranking_takes_the_more_sensitive_ones_with_it() -> None:
    assert Workshop({"d"}).fit().float_layers == ("e", "b", "d")


def test_the_ranking_says_which_layers_were_left_in_float() -> None:
    ranking = Workshop(LAYERS[:2]).fit().ranking
    assert ranking is not None
    assert [entry.layer for entry in ranking.layers] == list(LAYERS)
    assert [entry.in_float for entry in ranking.layers] == [True, True, False, False, False]


def test_what_passes_is_neither_ranked_nor_changed() -> None:
    workshop = Workshop(())
    found = workshop.fit()
    assert (found.float_layers, found.ranking, workshop.ranked) == ((), None, 0)
    assert workshop.attempts == [()]
    assert workshop.said == []


def test_what_passes_can_be_ranked_all_the_same() -> None:
    found = Workshop(()).fit(always_rank=True)
    assert found.float_layers == ()
    assert found.ranking is not None
    assert not any(entry.in_float for entry in found.ranking.layers)


def test_when_no_layer_can_help_the_variant_stays_whole_and_fails() -> None:
    workshop = Workshop((), hopeless=True)
    found = workshop.fit()
    assert found.float_layers == ()
    assert found.parity.failures == ["agreement with PyTorch 50.0000% is below 90.00%"]
    assert found.ranking is not None
    assert not any(entry.in_float for entry in found.ranking.layers)
    assert workshop.attempts == [(), LAYERS]
    assert "not even with all layers in floating point" in workshop.said[-1]


def test_a_variant_with_nothing_left_quantised_does_not_pass_for_a_quantised_one() -> None:
    workshop = Workshop(LAYERS)
    found = workshop.fit()
    assert found.float_layers == ()
    assert found.parity.failures != []
    assert found.ranking is not None
    assert not any(entry.in_float for entry in found.ranking.layers)
    assert "that is no quantisation" in workshop.said[-1]


def test_the_search_takes_few_attempts_and_tells_each() -> None:
    workshop = Workshop(LAYERS[:2])
    workshop.fit()
    assert len(workshop.attempts) <= 2 + 3  # none, all, then log2 of the five layers
    assert workshop.said[0] == "over budget: agreement with PyTorch 50.0000% is below 90.00%"
    assert "2 of 5 layers in float: the gates hold" in workshop.said
    assert any(line.startswith("1 of 5 layers in float: agreement") for line in workshop.said)
