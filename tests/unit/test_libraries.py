"""libraries: described by a literal in their own file that is read without an import, closed and complete."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from scripts.lib.cluster.requests import forward_passes
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import libraries as catalog
from scripts.lib.study.libraries import FOLDER, about, distributions, libraries, transforms
from scripts.lib.study.plan import Plan
from scripts.lib.study.recipes import load_recipe, recipe_schema, tool_state
from scripts.lib.study.sizes import Model, quantized_bytes
from scripts.quantizers.support import refusal

KINDS = [(name, algorithm) for name, library in libraries().items() for algorithm in library.algorithms]
RECIPES = {path.stem: load_recipe("config/recipes", path.stem) for path in Path("config/recipes").glob("*.yaml")}
MODEL = Model(10**6, 256, 4, 1000)
PLAN = Plan({})
PLAN.trajectories["run"] = {"source": "hub"}
PLAN.recipes = RECIPES
PLAN.model = lambda name: MODEL
DESCRIPTION = '{"stored": "dense", "algorithms": {"plain": {"title": "Plain", "description": "Nothing."}}}'


def test_every_file_that_quantizes_is_a_library_and_no_other():
    def has_quantize(path):
        body = ast.parse(path.read_text()).body
        return any(isinstance(node, ast.FunctionDef) and node.name == "quantize" for node in body)

    workers = {"autogptq_worker"}  # run in another environment
    assert set(libraries()) == {path.stem for path in FOLDER.glob("*.py") if has_quantize(path)} - workers


def test_no_library_is_imported_to_read_what_it_says():
    code = "import sys; from scripts.lib.study.recipes import load_recipe; load_recipe('config/recipes', 'gptq-w3-g64')"
    code += "; print({'torch', 'gptqmodel', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("library", "algorithm"), KINDS)
def test_a_recipe_schema_is_closed_and_described(library, algorithm):
    schema = recipe_schema(library, algorithm)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for name, key in schema["properties"].items():
        assert "description" in key or key["$ref"].removeprefix("#/$defs/") in schema["$defs"], name
    about = libraries()[library].algorithms[algorithm]
    assert set(about.get("optional", [])) | set(about.get("together", [])) <= set(about.get("settings", {}))
    assert ("calibration" in about.get("settings", {})) == ("passes" in about or algorithm == "rtn")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DESCRIPTION.replace("stored", "storde"), "unknown key `storde`"),
        (DESCRIPTION.replace('"title": "Plain", ', ""), "'title' is a required property"),
        (DESCRIPTION.replace("dense", "sparse"), "'sparse' is not one of dense, packed"),
        ("dict(stored=1)", "must be a literal"),
    ],
)
def test_a_wrong_description_names_its_file(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(f"ABOUT = {text}\n")
    with pytest.raises(ConfigError, match=message) as error:
        about(tmp_path / "mine.py")
    assert "mine.py: `ABOUT`" in str(error.value)


def test_a_new_file_is_all_that_a_new_library_needs(tmp_path, monkeypatch):
    (tmp_path / "transforms.py").write_text(FOLDER.joinpath("transforms.py").read_text())
    (tmp_path / "mine.py").write_text(f"import no_such_package\n\nABOUT = {DESCRIPTION}\n")
    (tmp_path / "plain.yaml").write_text("algorithm: plain\nlibrary: mine\n")
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    known = (libraries, catalog._described, recipe_schema)
    for function in known:
        function.cache_clear()
    try:
        assert list(libraries()) == ["mine"]
        assert load_recipe(tmp_path, "plain") == {"algorithm": "plain", "library": "mine"}
        assert tool_state("mine") == {}
    finally:
        for function in known:
            function.cache_clear()


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_said_answers_every_question_about_a_recipe(name):
    recipe = RECIPES[name]
    assert all(importlib.metadata.version(package) for package in distributions(recipe))
    assert (forward_passes(recipe, MODEL) > 0) == ("calibration" in recipe)
    assert 0 < quantized_bytes(MODEL, PLAN.recipes[name]) <= 4 * MODEL.parameters
    has_groups = recipe.get("group_size", -1) > 0 or "divides" in catalog.algorithm(recipe)
    assert bool(refusal(recipe, {"model_type": "llama", "hidden_size": 4, "head_dim": 4}, {"layer": 3})) == has_groups


def test_the_versions_of_a_recipe_are_those_of_its_library_and_transform():
    assert distributions(RECIPES["rtn-w3-g64"]) == ()
    assert distributions(RECIPES["gptq-w3-g64"]) == ("GPTQModel",)
    assert distributions(RECIPES["awq-w3-g64-asym"]) == ("llmcompressor", "compressed-tensors")
    assert transforms().package == "llmcompressor"


def test_the_quantizers_load_in_an_environment_without_jsonschema():
    """Such as that of auto-gptq, whose worker is one of their modules."""
    code = "import sys, scripts.quantizers.autogptq_worker; sys.exit('jsonschema' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
