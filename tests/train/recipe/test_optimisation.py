"""Optimisers, schedules and the moving average, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgeseg_train.recipe.config import TrainingConfig
from edgeseg_train.recipe.optimisation import make_optimizer, make_schedule, moving_average


def config(**values: object) -> TrainingConfig:
    base = {"epochs": 1, "batch_size": 1, "lr": 0.5, "schedule": "constant"}
    return TrainingConfig.model_validate({**base, **values})


def rates(total: int, **values: object) -> list[float]:
    settings = config(**values)
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], settings)
    schedule = make_schedule(optimizer, settings, total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_constant_poly_and_cosine_follow_their_formulas() -> None:
    total = 20
    assert rates(total) == [0.5] * total
    poly = [0.5 * (1 - i / total) ** 0.9 for i in range(total)]
    assert rates(total, schedule="poly") == pytest.approx(poly)
    cosine = [0.25 * (1 + math.cos(math.pi * i / total)) for i in range(total)]
    assert rates(total, schedule="cosine") == pytest.approx(cosine)


@pytest.mark.parametrize("schedule", ["constant", "poly", "cosine"])
def test_warm_up_rises_to_the_highest_rate_and_then_the_schedule_begins(schedule: str) -> None:
    found = rates(20, schedule=schedule, warmup=0.25)
    rise = [0.5 * (1 + 5 * i / 5) / 6 for i in range(5)]
    assert found[:5] == pytest.approx(rise)
    assert found[5] == pytest.approx(0.5)
    assert found[5:] == pytest.approx(rates(15, schedule=schedule))


def test_one_cycle_peaks_at_the_highest_rate_and_ends_near_zero() -> None:
    found = rates(50, schedule="onecycle")
    assert max(found) == pytest.approx(0.5)
    assert 5 < found.index(max(found)) < 15
    assert found[-1] < 1e-3
    assert rates(1, schedule="onecycle")[0] > 0  # a single step is a legal training


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimisers_decay_weights(name: str) -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([weight], config(optimizer=name, weight_decay=0.1))
    weight.grad = torch.zeros(1)
    optimizer.step()
    factor = 1 if name == "adamw" else 1 + 0.9  # Nesterov looks one step ahead
    assert weight.item() == pytest.approx(1 - 0.5 * 0.1 * factor)


def test_the_moving_average_follows_its_recursion_with_a_rising_decay() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = moving_average(network, 0.3)
    values = [1.0, 3.0, -2.0, 5.0, 0.0]
    expected = values[0]
    for n, value in enumerate(values):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(10 * value)
            network[1].num_batches_tracked.fill_(n)
        average.update_parameters(network)
        decay = min(0.3, (1 + n) / (10 + n)) if n else 0
        expected = decay * expected + (1 - decay) * value
        assert average.module[0].weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.module[1].running_mean.item() == pytest.approx(10 * expected, rel=1e-5)
    assert average.module[1].num_batches_tracked.item() == len(values) - 1
