"""recipes: every shipped one is valid and named after what it says; settings that exclude each other are refused."""

import re
from pathlib import Path

import pytest
import yaml

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.libraries import libraries
from scripts.lib.study.recipes import contradiction, load_recipe

RECIPES = sorted(path.stem for path in Path("config/recipes").glob("*.yaml"))
GPTQ = yaml.safe_load(Path("config/recipes/gptq-w3-g64.yaml").read_text())
MIXED = yaml.safe_load(Path("config/recipes/mixed-w3-g64.yaml").read_text())

LIBRARY_OF = {"gptq": "gptqmodel", "rtn": "rtn"}  # of algorithms that several have, where a name does not say it
NAME = re.compile(
    rf"([a-z-]+)-w(\d)-(?:g(\d+)|channel)(-asym)?(-natural|-act|-static)?(-(?:{'|'.join(libraries())}))?(-c4)?"
)


def method_of(recipe):
    """How a recipe's name begins: with its transform, before its rounding unless that is the plain one."""
    rounding = "gptaq" if recipe.get("gptaq") else recipe["algorithm"]
    if "transform" not in recipe:
        return rounding
    transform = recipe["transform"]["algorithm"]
    return transform if rounding == "rtn" else f"{transform}-{rounding}"


def order_of(recipe):
    """How a recipe's name tells the order of columns: not if it is GPTQModel's own, or there is no group to keep."""
    if recipe["algorithm"] != "gptq" or recipe.get("act_group_aware"):
        return ""
    if recipe["desc_act"]:
        return "-static" if recipe["library"] == "llmcompressor" else "-act"
    return "" if recipe["group_size"] == -1 else "-natural"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_says_what_its_name_says(name):
    recipe = load_recipe("config/recipes", name)
    assert recipe["library"] in libraries()
    found = NAME.fullmatch(name)
    if not found:
        assert name == recipe["algorithm"]
        return
    method, bits, group, asymmetric, ordered, library, corpus = found.groups()
    assert method == method_of(recipe)
    assert recipe.get("bits", recipe.get("average_bits")) == int(bits)
    assert recipe["group_size"] == int(group or -1)
    assert recipe.get("symmetric", True) == (not asymmetric)
    assert order_of(recipe) == (ordered or "")
    assert (recipe.get("calibration", {}).get("corpus") == "c4") == bool(corpus)
    having = {name for name, known in libraries().items() if recipe["algorithm"] in known.algorithms}
    plain = having if len(having) == 1 else {LIBRARY_OF[recipe["algorithm"]]}
    assert recipe["library"] in ({library[1:]} if library else plain)


def test_no_two_recipes_are_the_same():
    texts = [yaml.safe_dump(load_recipe("config/recipes", name)) for name in RECIPES]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (GPTQ | {"desc_act": True}, "act_group_aware"),
        (GPTQ | {"group_size": -1}, "group_size: -1"),
        (GPTQ | {"gptaq": True, "desc_act": True, "act_group_aware": False}, "gptaq"),
        (MIXED | {"choices": [4, 2]}, "ascend"),
        (MIXED | {"average_bits": 9}, "average_bits: 9"),
    ],
)
def test_contradictions_have_a_reason(recipe, reason):
    assert reason in contradiction(recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"desc_act": True}, "act_group_aware"),
        ({"bits": 9}, "9 is not one of"),
        ({"gruop_size": 3}, "did you mean `group_size`"),
        ({"library": "autoawq"}, "gptqmodel"),
        ({"library": "hqq"}, "gptqmodel"),
        ({"algorithm": "gtpq"}, "'gtpq' is not one of autoround"),
        ({"transform": {"algorithm": "awq"}}, "`transform`: 'grid_points' is a required property"),
        ({"transform": {"algorithm": "awq", "grid_points": 4, "strength": 1}}, "unknown key `transform.strength`"),
    ],
)
def test_a_wrong_recipe_names_its_file(tmp_path, change, message):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GPTQ | change))
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(tmp_path, "mine")
    assert "mine.yaml" in str(error.value)


@pytest.mark.parametrize("key", ["algorithm", "library", "damping", "calibration"])
def test_a_missing_key_is_named(tmp_path, key):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({name: value for name, value in GPTQ.items() if name != key}))
    with pytest.raises(ConfigError, match=f"mine.yaml: '{key}' is a required property"):
        load_recipe(tmp_path, "mine")


def test_calibration_without_a_transform_is_refused_where_nothing_reads_it(tmp_path):
    rtn = yaml.safe_load(Path("config/recipes/rtn-w3-g64.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(rtn | {"calibration": GPTQ["calibration"]}))
    with pytest.raises(ConfigError, match="'transform' is a dependency of 'calibration'"):
        load_recipe(tmp_path, "mine")
