"""Recipes: checked against what their libraries say of themselves, and for settings that contradict each other."""

from functools import cache
from pathlib import Path

from scripts.lib.runtime.config_files import SCHEMAS, ConfigError, check, ordered, read_named, read_yaml
from scripts.lib.study.libraries import libraries, transforms


def tool_state(library: str) -> dict[str, bool]:
    """Whether what a library needs besides the environment is there; a param, so that refused cells run once it is."""
    built = libraries()[library].built
    return {"built": Path(built["file"]).exists()} if built else {}


def load_recipe(folder: Path | str, name: str) -> dict:
    """Read and check config/recipes/{name}.yaml.

    Raises:
        ConfigError: there is no such recipe, it does not fit its schema, or two of its settings exclude each other.
    """
    recipe = read_named(folder, "recipe", name)
    where = f"{folder}/{name}.yaml"
    check_recipe(recipe, where)
    reason = contradiction(recipe)
    if reason:
        raise ConfigError(f"{where}: {reason}")
    return ordered(recipe)


def check_recipe(recipe: dict, where: str) -> None:
    """Check a recipe's keys and values against what its library and its transform say of themselves.

    Raises:
        ConfigError: the message names the file, the key, the value and what is allowed.
    """
    check(recipe, _kinds(recipe.get("algorithm")), where)
    check(recipe, recipe_schema(recipe["library"], recipe["algorithm"]), where)


def _kinds(algorithm) -> dict:
    """Schema of a recipe's two first keys: an algorithm that some library has, and a library that has it."""
    known = sorted({name for library in libraries().values() for name in library.algorithms})
    having = [name for name, library in libraries().items() if algorithm in library.algorithms]
    return {
        "required": ["algorithm", "library"],
        "properties": {"algorithm": {"enum": known}} | ({"library": {"enum": having}} if having else {}),
    }


@cache
def recipe_schema(library: str, algorithm: str) -> dict:
    """The closed schema of all recipes of one algorithm by one library."""
    about = libraries()[library].algorithms[algorithm]
    heads = {
        "algorithm": {"const": algorithm, "description": about["description"]},
        "library": {"const": library, "description": f"scripts/quantizers/{library}.py"},
    }
    together = about.get("together", [])
    return {
        **_closed(about, heads),
        "dependentRequired": {key: [other for other in together if other != key] for key in together},
        "$defs": read_yaml(SCHEMAS / "recipe.schema.yaml")["$defs"] | {"transform": transform_schema()},
    }


def transform_schema() -> dict:
    """Schema of a recipe's `transform`, as scripts/quantizers/transforms.py describes it."""
    known = transforms().algorithms
    return {
        "description": "What is done to the model before rounding, without a change of its function.",
        "type": "object",
        "required": ["algorithm"],
        "properties": {"algorithm": {"enum": list(known), "description": "Which."}},
        "allOf": [
            {
                "if": {"properties": {"algorithm": {"const": name}}},
                "then": _closed(about, {"algorithm": {"const": name, "description": about["description"]}}),
            }
            for name, about in known.items()
        ],
    }


def _closed(about: dict, heads: dict[str, dict]) -> dict:
    """Schema of some first keys and of an algorithm's settings, and of no other key."""
    settings = about.get("settings", {})
    shared = {
        key: value if isinstance(value, dict) else {"$ref": f"#/$defs/{value}"} for key, value in settings.items()
    }
    return {
        "title": about["title"],
        "type": "object",
        "additionalProperties": False,
        "required": [*heads, *(key for key in settings if key not in about.get("optional", []))],
        "properties": heads | shared,
    }


def contradiction(recipe: dict) -> str | None:
    """Which settings of a recipe exclude each other, and why; None if it can be carried out."""
    if recipe.get("act_group_aware") and recipe["desc_act"]:
        return "`act_group_aware` and `desc_act` are two orders of the same columns: set one of them to false"
    if recipe.get("act_group_aware") and recipe["group_size"] == -1:
        return "`act_group_aware` reorders groups, and `group_size: -1` has none: set `act_group_aware: false`"
    if recipe.get("gptaq") and recipe["desc_act"]:
        return "`gptaq` was checked without `desc_act` only: set one of them to false"
    if "choices" in recipe:
        choices, average = recipe["choices"], recipe["average_bits"]
        if choices != sorted(choices):
            return f"`choices` must ascend: {sorted(choices)}"
        if not choices[0] <= average < choices[-1]:
            return (
                f"`average_bits: {average}` must be at least {choices[0]} and less than {choices[-1]}, as `choices` are"
            )
    return None
