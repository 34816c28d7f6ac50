"""Recipes: presets, TOML files, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeseg.errors import UsageError
from edgeseg_benchmarks.ablation import read_study
from edgeseg_train.recipe.config import TrainingConfig, read_recipe
from edgeseg_train.recipe.presets import PRESETS

RECIPE = """
preset = "edge"
features = [8, 16]
size = [180, 240]

[training]
epochs = 3
loss = ["ce", "lovasz"]

[training.augmentation]
jitter = 0.4
"""


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_changes_its_preset_value_by_value(tmp_path: Path) -> None:
    recipe, edge = read_recipe(recipe_file(tmp_path, RECIPE), PRESETS), PRESETS["edge"]
    assert (recipe.features, recipe.size) == ((8, 16), (180, 240))
    assert recipe.norm == edge.norm
    assert recipe.training.loss == ("ce", "lovasz")
    assert recipe.training.lr == edge.training.lr
    assert recipe.training.augmentation.jitter == 0.4
    assert recipe.training.augmentation.scale == edge.training.augmentation.scale


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset = 'huge'", "no preset 'huge'"),
        ("preset = ['edge']", "no preset"),
        ("features = 3", "features"),
        ("sice = [3, 4]", "sice"),
        ("[training]\nlr = -1", r"training\.lr"),
        ("[training]\nloss = []", r"training\.loss"),
        ("[training]\nloss = ['ce', 'ce']", "twice"),
        ("[training.augmentation]\nscale = [2, 0.5]", "low..high"),
        ("training = 3", "tables"),
        ("size = [", "cannot read recipe"),
    ],
)
def test_a_faulty_recipe_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_recipe(recipe_file(tmp_path, text), PRESETS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_recipe_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read recipe"):
        read_recipe(tmp_path / "none.toml", PRESETS)


def test_steps_alone_end_a_training_when_only_they_are_given() -> None:
    edge = PRESETS["edge"]
    assert edge.with_training({"max_steps": 7}).epochs is None
    both = edge.with_training({"max_steps": 7, "epochs": 2})
    assert (both.max_steps, both.epochs) == (7, 2)
    with pytest.raises(ValidationError, match="ends the training"):
        TrainingConfig(epochs=None, batch_size=1, lr=1, schedule="constant")


def test_presets_name_the_reference_recipe() -> None:
    seed = PRESETS["seed"]
    assert (seed.features, seed.size) == ((64, 128, 256, 512), (512, 512))
    assert (seed.norm, seed.activation, seed.upsample) == ("first", "gelu", "transpose")
    recipe = seed.training
    assert (recipe.lr, recipe.weight_decay, recipe.clip) == (1e-4, 0.01, 1.0)
    assert (recipe.schedule, recipe.loss, recipe.ema) == ("constant", ("ce",), 0)


SHIPPED = sorted((Path(__file__).parents[3] / "train" / "recipes").glob("*.toml"))


def test_shipped_recipes_and_studies_are_read() -> None:
    assert {path.stem for path in SHIPPED} >= {"camvid", "camvid-edge", "camvid-ablation"}
    for path in SHIPPED:
        if path.stem.endswith("-ablation"):
            assert len(read_study(path)) > 1
        else:
            assert read_recipe(path, PRESETS).training.epochs


def test_the_edge_recipe_needs_at_most_a_quarter_of_the_multiplications() -> None:
    """The channels halve in every layer but the first and the last, which are hardly any work."""
    large, edge = (read_recipe(path, PRESETS) for path in SHIPPED if "ablation" not in path.stem)
    if large.features < edge.features:
        large, edge = edge, large
    assert large.size == edge.size
    assert tuple(2 * width for width in edge.features) == large.features
