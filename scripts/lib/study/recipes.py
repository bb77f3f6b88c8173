"""Recipes: settings that each are allowed and contradict each other."""

from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, load_named

TOOLS = {"autogptq": ".venv-auto-gptq/done", "llamacpp": ".llama.cpp/llama-quantize"}  # library -> what is built for it


def tool_state(library: str) -> dict[str, bool]:
    """Whether what a library needs besides the environment is there; a param, so that refused cells run once it is."""
    return {"built": Path(TOOLS[library]).exists()} if library in TOOLS else {}


def load_recipe(folder: Path | str, name: str) -> dict:
    """Read and check config/recipes/{name}.yaml.

    Raises:
        ConfigError: there is no such recipe, it does not fit its schema, or two of its settings exclude each other.
    """
    recipe = load_named(folder, "recipe", name)
    reason = contradiction(recipe)
    if reason:
        raise ConfigError(f"{folder}/{name}.yaml: {reason}")
    return recipe


def contradiction(recipe: dict) -> str | None:
    """Which settings of a recipe exclude each other, and why; None if it can be carried out."""
    if recipe.get("act_group_aware") and recipe["desc_act"]:
        return "`act_group_aware` and `desc_act` are two orders of the same columns: set one of them to false"
    if recipe.get("act_group_aware") and recipe["group_size"] == -1:
        return "`act_group_aware` reorders groups, and `group_size: -1` has none: set `act_group_aware: false`"
    if recipe.get("gptaq") and recipe["desc_act"]:
        return "`gptaq` was checked without `desc_act` only: set one of them to false"
    if recipe["algorithm"] == "mixed":
        choices, average = recipe["choices"], recipe["average_bits"]
        if choices != sorted(choices):
            return f"`choices` must ascend: {sorted(choices)}"
        if not choices[0] <= average < choices[-1]:
            return (
                f"`average_bits: {average}` must be at least {choices[0]} and less than {choices[-1]}, as `choices` are"
            )
    return None
